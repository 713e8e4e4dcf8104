/* Lines on zdb's stderr. Not stdio: nothing is buffered, and nothing hangs on a full pipe. */
#define _GNU_SOURCE
#include "shim.h"

#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { WAIT_MS = 100 };

/* A pipe that polls ready takes PIPE_BUF bytes without blocking. */
static void write_unblocked(const char *line, size_t size)
{
    while (size > 0) {
        struct pollfd ready = { .fd = STDERR_FILENO, .events = POLLOUT };
        if (poll(&ready, 1, WAIT_MS) <= 0 || !(ready.revents & POLLOUT))
            return;
        ssize_t n = write(STDERR_FILENO, line, size < PIPE_BUF ? size : PIPE_BUF);
        if (n <= 0)
            return;
        line += n;
        size -= (size_t)n;
    }
}

void say(const char *format, ...)
{
    char line[2 * MAX_TEXT] = "hookd-shim: ";
    size_t size = strlen(line);
    va_list args;
    va_start(args, format);
    vsnprintf(line + size, sizeof line - size - 1, format, args);
    va_end(args);
    size = strlen(line);
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
            line[i] = ' ';
    line[size++] = '\n';
    write_unblocked(line, size);
}
