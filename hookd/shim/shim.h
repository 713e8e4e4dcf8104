/* What the files of hookd-shim share. One file, one concern:
 *
 *   hookd-shim.c  settings, and what to do when there is no answer
 *   child.c       letting go of what zdb hands down
 *   frame.c       bytes on the wire
 *   daemon.c      the conversation
 *   spool.c       the durable alternative to it
 *   say.c         lines on zdb's stderr
 */
#ifndef HOOKD_SHIM_H
#define HOOKD_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/un.h>

/* Exit codes; the daemon may answer others. */
enum { DONE = 0, FAILED = 1, USAGE = 100, NOWHERE = 111 };

/* Wire format, as in hookd/wire.py. */
enum { EVENT = 1, HEARTBEAT = 2, ANSWER = 3, ANSWER_SPOOL = 254 };
enum { ID_SIZE = 16, HEADER_SIZE = 16, MAX_BODY = 1 << 20, MAX_TEXT = 4096 };

/* Tests build with HOOKD_FAULTS, and name in $HOOKD_FAULT the step at which the shim is killed. */
#ifdef HOOKD_FAULTS
void fault(const char *step);
#else
#define fault(step) ((void)0)
#endif

/* say.c: one line on stderr, whatever the text holds; dropped where writing it would block. */
__attribute__((format(printf, 1, 2))) void say(const char *format, ...);

/* child.c */
void survive_signals(void);
void close_inherited(void);
void fill_standard_descriptors(void);

/* frame.c */
struct frame {
    size_t size;
    unsigned char bytes[HEADER_SIZE + MAX_BODY];
};

/* An empty frame into the EVENT of these arguments. False: larger than the format allows. */
bool build_event(struct frame *f, uint32_t timeout_ms, int argc, char **argv);

/* The id of an event, ID_SIZE bytes. */
const unsigned char *event_id(const struct frame *f);

/* The size of the heartbeat or answer that `in` starts with; 0: not whole yet; -1: no such frame. */
ssize_t parse_reply(const unsigned char *in, size_t have);

/* daemon.c; all times in ms, points in time of CLOCK_MONOTONIC */
struct daemon {
    struct sockaddr_un address;
    bool reachable;      /* false: the path of its socket does not fit into an address */
    uint32_t timeout_ms; /* for how long one connection may stay silent */
};

struct call {
    const struct daemon *daemon;
    const struct frame *event;
    const char *hook;
    int64_t patience_ms;     /* for how long there may be no sign of life */
    int64_t last_sign;       /* when the last whole frame came; at first, when the call began */
    int64_t next_report;     /* when to say again that this waits */
    bool may_spool;          /* ANSWER_SPOOL ends the call */
    char text[MAX_TEXT + 1]; /* out: the answer's text, or why there is none */
};

extern const int64_t FOREVER_MS;

/* The code of the daemon's answer (never ANSWER_SPOOL), or -1: none came in patience_ms. */
int ask(struct call *c);

/* spool.c: true: the event is on disk for good. False, with a line said: it is not acknowledged. */
bool spool_event(const char *folder, const struct frame *event);

#endif
