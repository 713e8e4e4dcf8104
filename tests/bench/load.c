/* Load for the bench: N threads, each one event a connection, M events together; prints seconds and
 * the latency of each event in microseconds, sorted, at p50 p99 p99.9. argv: SOCKET THREADS EVENTS PREFIX */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_un address;
static atomic_long next_event;
static long events;
static const char *prefix;
static double *took;
static atomic_long failures;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint32_t crc32(const unsigned char *data, size_t size)
{
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < size; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (0xedb88320u & (0u - (crc & 1)));
    }
    return ~crc;
}

static unsigned char *put32(unsigned char *at, uint32_t value)
{
    at[0] = (unsigned char)(value >> 24), at[1] = (unsigned char)(value >> 16);
    at[2] = (unsigned char)(value >> 8), at[3] = (unsigned char)value;
    return at + 4;
}

static unsigned char *put_text(unsigned char *at, const char *text)
{
    size_t size = strlen(text);
    at = put32(at, (uint32_t)size);
    memcpy(at, text, size);
    return at + size;
}

static void *work(void *unused)
{
    (void)unused;
    for (;;) {
        long number = atomic_fetch_add(&next_event, 1);
        if (number >= events)
            return NULL;
        unsigned char frame[4096], *at = frame + 16;
        char old[512], new[512];
        snprintf(old, sizeof old, "%s/d%ld", prefix, number);
        snprintf(new, sizeof new, "%s/d%ld", prefix, number + 1);
        if (getrandom(at, 16, 0) != 16)
            abort();
        at = put32(at + 16, 5000);
        at = put_text(at, "/");
        *at++ = 0, *at++ = 4;
        at = put_text(at, "jump-data");
        at = put_text(at, "tcp://127.0.0.1:1");
        at = put_text(at, old);
        at = put_text(at, new);
        memcpy(frame, "HKD\1\1\0\0\0", 8);
        size_t body = (size_t)(at - frame) - 16;
        put32(frame + 8, (uint32_t)body);
        put32(frame + 12, crc32(frame + 16, body));
        double started = now();
        int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        unsigned char answer[64];
        if (connect(s, (struct sockaddr *)&address, sizeof address) != 0 ||
            send(s, frame, (size_t)(at - frame), MSG_NOSIGNAL) != at - frame ||
            recv(s, answer, sizeof answer, 0) < 17 || answer[4] != 3 || answer[16] != 0)
            atomic_fetch_add(&failures, 1);
        close(s);
        took[number] = now() - started;
    }
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 100;
    address.sun_family = AF_UNIX;
    strncpy(address.sun_path, argv[1], sizeof address.sun_path - 1);
    int threads = atoi(argv[2]);
    events = atol(argv[3]);
    prefix = argv[4];
    took = calloc((size_t)events, sizeof *took);
    pthread_t *all = calloc((size_t)threads, sizeof *all);
    double started = now();
    for (int i = 0; i < threads; i++)
        pthread_create(&all[i], NULL, work, NULL);
    for (int i = 0; i < threads; i++)
        pthread_join(all[i], NULL);
    double seconds = now() - started;
    qsort(took, (size_t)events, sizeof *took, compare);
    printf("{\"seconds\": %.6f, \"failures\": %ld, \"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f}\n",
           seconds, (long)failures, took[events / 2] * 1e6, took[events * 99 / 100] * 1e6,
           took[events * 999 / 1000] * 1e6);
    return failures != 0;
}
