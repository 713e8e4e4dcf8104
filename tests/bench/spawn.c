/* Whole-process cost: runs commands in turn, N times each, and prints the time from vfork to the end of
 * wait of each run in microseconds at p50, p99 and p99.9. argv: N -- CMD ARGS… -- CMD ARGS…; @ at the end of
 * an argument becomes the number of the run. */
#define _GNU_SOURCE
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    char **commands[8];
    int count = 0;
    if (argc < 4)
        return 100;
    int runs = atoi(argv[1]);
    for (int i = 2; i < argc; i++)
        if (strcmp(argv[i], "--") == 0 && count < 8) {
            argv[i] = NULL;
            commands[count++] = &argv[i + 1];
        }
    double *took[8];
    char *slots[8] = {0};
    for (int c = 0; c < count; c++)
        took[c] = calloc((size_t)runs, sizeof **took);
    for (int run = 0; run < runs; run++)
        for (int c = 0; c < count; c++) {
            pid_t child;
            int status;
            for (char **arg = commands[c]; *arg != NULL; arg++) {
                char *at = strchr(*arg, '@');
                if (at != NULL && run == 0) {
                    char *roomy = malloc(strlen(*arg) + 16);
                    *arg = strcpy(roomy, *arg);
                    slots[c] = strchr(roomy, '@');
                }
            }
            if (slots[c] != NULL)
                sprintf(slots[c], "%d", run);
            double started = now();
            if (posix_spawn(&child, commands[c][0], NULL, NULL, commands[c], environ) != 0)
                return 111;
            if (waitpid(child, &status, 0) != child || status != 0) {
                fprintf(stderr, "%s ended with status %d\n", commands[c][0], status);
                return 1;
            }
            took[c][run] = now() - started;
        }
    printf("[");
    for (int c = 0; c < count; c++) {
        qsort(took[c], (size_t)runs, sizeof **took, compare);
        printf("%s{\"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f}", c ? ", " : "",
               took[c][runs / 2] * 1e6, took[c][runs * 99 / 100] * 1e6,
               took[c][runs * 999 / 1000] * 1e6);
    }
    printf("]\n");
    return 0;
}
