/* The conversation with the daemon: the same event on one connection after another, until an answer
 * comes or patience ends. Nothing here waits without a deadline. */
#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FIRST_PAUSE_MS = 2, LONGEST_PAUSE_MS = 250, REPORT_EVERY_MS = 10000 };

const int64_t FOREVER_MS = INT64_MAX / 4;

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void sign_of_life(struct call *c)
{
    c->last_sign = now_ms();
    c->next_report = c->last_sign + REPORT_EVERY_MS;
}

static int64_t silent_until(const struct call *c)
{
    return earlier(now_ms() + c->daemon->timeout_ms, c->last_sign + c->patience_ms);
}

__attribute__((format(printf, 2, 3))) static int no_answer(struct call *c, const char *why, ...)
{
    va_list args;
    va_start(args, why);
    vsnprintf(c->text, sizeof c->text, why, args);
    va_end(args);
    return -1;
}

/* Looks once even when the deadline is past: this process may have been stopped meanwhile. */
static bool ready_by(int fd, short events, int64_t deadline)
{
    for (;;) {
        int64_t left = deadline - now_ms();
        struct pollfd wanted = { .fd = fd, .events = events };
        int n = poll(&wanted, 1, left < 0 ? 0 : (int)earlier(left, INT_MAX));
        if (n > 0)
            return true;
        if (n < 0 ? errno != EINTR : left <= 0)
            return false;
    }
}

/* No error is reported: the daemon may have answered and hung up without reading all of it, and
 * that answer is still there to be read. */
static void send_event(int fd, const struct frame *f, int64_t deadline)
{
    for (size_t sent = 0; sent < f->size;) {
        ssize_t n = send(fd, f->bytes + sent, f->size - sent, MSG_NOSIGNAL);
        if (n >= 0)
            sent += (size_t)n;
        else if (errno != EINTR && (errno != EAGAIN || !ready_by(fd, POLLOUT, deadline)))
            return;
    }
}

/* How many bytes were read: 0 is "not now"; -1 ends the connection. */
static ssize_t receive(struct call *c, int fd, unsigned char *to, size_t room, int64_t deadline)
{
    if (!ready_by(fd, POLLIN, deadline))
        return no_answer(c, "it is silent");
    ssize_t n = recv(fd, to, room, 0);
    if (n > 0)
        return n;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    return no_answer(c, "it hung up without an answer");
}

static int take_answer(struct call *c, const unsigned char *in, size_t size)
{
    size_t text = size - HEADER_SIZE - 1;
    memcpy(c->text, in + HEADER_SIZE + 1, text);
    c->text[text] = '\0';
    return in[HEADER_SIZE];
}

/* Only a whole frame is a sign of life: a stranger on that socket (a zdb says "-ERR" to anything)
 * is not to hold zdb for good. */
static int read_answer(struct call *c, int fd, int64_t deadline)
{
    unsigned char in[HEADER_SIZE + 1 + MAX_TEXT];
    size_t have = 0;
    for (;;) {
        ssize_t size = parse_reply(in, have);
        if (size < 0)
            return no_answer(c, "what answers there is no hookd");
        if (size > 0 && in[4] == ANSWER)
            return take_answer(c, in, (size_t)size);
        if (size > 0) {
            sign_of_life(c);
            deadline = silent_until(c);
            have -= (size_t)size;
            memmove(in, in + size, have);
            continue;
        }
        ssize_t n = receive(c, fd, in + have, sizeof in - have, deadline);
        if (n < 0)
            return -1;
        have += (size_t)n;
    }
}

static int converse(struct call *c, int fd)
{
    const struct sockaddr_un *address = &c->daemon->address;
    /* EAGAIN is a daemon whose backlog is full: for now as good as away. */
    if (connect(fd, (const struct sockaddr *)address, sizeof *address))
        return no_answer(c, "%s: %s", address->sun_path, strerror(errno));
    fault("connected");
    int64_t deadline = silent_until(c);
    send_event(fd, c->event, deadline);
    fault("sent");
    return read_answer(c, fd, deadline);
}

static int ask_once(struct call *c)
{
    if (!c->daemon->reachable)
        return no_answer(c, "the path of its socket is too long");
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return no_answer(c, "socket: %s", strerror(errno));
    int code = converse(c, fd);
    close(fd);
    if (code == ANSWER_SPOOL && !*c->text)
        no_answer(c, "it cannot commit now");
    return code;
}

static void report_waiting(struct call *c)
{
    int64_t now = now_ms();
    if (now < c->next_report)
        return;
    say("%s: waiting for the daemon for %lld s now: %s", c->hook,
        (long long)((now - c->last_sign) / 1000), c->text);
    c->next_report = now + REPORT_EVERY_MS;
}

/* ANSWER_SPOOL is no sign of life: who may not spool waits as if nobody were there. */
int ask(struct call *c)
{
    int64_t pause = FIRST_PAUSE_MS;
    sign_of_life(c);
    for (;;) {
        int64_t sign = c->last_sign;
        int code = ask_once(c);
        if (code >= 0 && code != ANSWER_SPOOL)
            return code;
        int64_t left = c->last_sign + c->patience_ms - now_ms();
        if (left <= 0 || (code == ANSWER_SPOOL && c->may_spool))
            return -1;
        report_waiting(c);
        if (c->last_sign != sign)
            pause = FIRST_PAUSE_MS;
        const struct timespec nap = { .tv_nsec = (long)earlier(pause, left) * 1000000 };
        nanosleep(&nap, NULL);
        pause = earlier(2 * pause, LONGEST_PAUSE_MS);
    }
}
