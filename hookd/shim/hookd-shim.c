/* hookd-shim HOOK ZDBID [ARGUMENT...]: what zdb executes as its hook.
 *
 * One call of zdb goes as one frame to the daemon, whose answer is the exit code. Without an answer
 * the frame goes into the spool, or the shim keeps trying, or fails: see what_if_away.
 *
 * Exit codes: 0 committed; 1 the daemon says it failed, or spooled and zdb is not to forget it;
 * 100 usage; 111 reached neither daemon nor spool.
 *
 * zdb waits for some of its hooks in its only thread, and takes death by a signal for success: so
 * no signal that can be caught ends this program, nothing in it waits without a deadline
 * (namespaces-init excepted, where going on would serve wrong data), and reaching a daemon that is
 * there costs one round trip. Weakness: SIGKILL, and a signal between exec and main, still count as
 * success in zdb.
 */
#define _GNU_SOURCE
#include "shim.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef HOOKD_VERSION
#define HOOKD_VERSION "0.1.0"
#endif

#ifdef HOOKD_FAULTS
void fault(const char *step)
{
    const char *at = getenv("HOOKD_FAULT");
    if (at && !strcmp(at, step))
        kill(getpid(), SIGKILL);
}
#endif

enum away { SPOOL, SPOOL_AND_FAIL, TRY_FOR_A_WHILE, TRY_FOR_EVER };

struct settings {
    struct daemon daemon;
    const char *spool;
    uint32_t wait_ms; /* the patience of hooks that only the daemon can answer */
};

static const char *setting(const char *name, const char *otherwise)
{
    const char *value = getenv(name);
    return value && *value ? value : otherwise;
}

/* Not strtod, which takes "inf", "0x1p3" and the comma of some locale. */
static bool parse_seconds(const char *text, uint32_t *ms)
{
    uint64_t total = 0;
    uint64_t unit = 1000;
    const char *begin = text;
    for (; *text >= '0' && *text <= '9' && total <= UINT32_MAX; text++)
        total = total * 10 + (uint64_t)(*text - '0') * unit;
    if (text == begin)
        return false;
    if (*text == '.')
        for (text++; *text >= '0' && *text <= '9'; text++)
            total += (uint64_t)(*text - '0') * (unit /= 10);
    *ms = (uint32_t)total;
    return !*text && total <= UINT32_MAX;
}

/* No event is lost over a typo: a line says so, and the default serves. */
static uint32_t setting_ms(const char *name, uint32_t otherwise_ms)
{
    const char *text = setting(name, NULL);
    uint32_t ms;
    if (!text)
        return otherwise_ms;
    if (parse_seconds(text, &ms))
        return ms;
    say("%s is '%s', expected seconds such as 5 or 0.5: taking %u", name, text,
        otherwise_ms / 1000);
    return otherwise_ms;
}

static void read_settings(struct settings *s)
{
    struct sockaddr_un *address = &s->daemon.address;
    const char *path = setting("HOOKD_SOCKET", "/run/hookd/hook.sock");
    size_t size = strlen(path);
    address->sun_family = AF_UNIX;
    s->daemon.reachable = size < sizeof address->sun_path;
    if (s->daemon.reachable)
        memcpy(address->sun_path, path, size);
    else
        say("HOOKD_SOCKET has %zu bytes, expected at most %zu: no daemon there", size,
            sizeof address->sun_path - 1);
    s->daemon.timeout_ms = setting_ms("HOOKD_TIMEOUT_S", 5000);
    s->wait_ms = setting_ms("HOOKD_WAIT_S", 60000);
    s->spool = setting("HOOKD_SPOOL", "/var/lib/hookd/spool");
}

static enum away what_if_away(const char *hook)
{
    if (!strcmp(hook, "namespaces-init"))
        return TRY_FOR_EVER; /* zdb ignores the exit code, and would serve what is not restored */
    if (!strcmp(hook, "ready") || !strcmp(hook, "missing-data"))
        return TRY_FOR_A_WHILE; /* a 0 from the spool would be a lie */
    if (!strcmp(hook, "jump-index"))
        return SPOOL_AND_FAIL; /* zdb keeps its dirty list, but never names the closed file again */
    return SPOOL;
}

/* A path that fits into no address will not fit later either. */
static int64_t patience_ms(const struct settings *s, enum away away)
{
    if (away == TRY_FOR_EVER)
        return FOREVER_MS;
    if (!s->daemon.reachable)
        return 0;
    return away == TRY_FOR_A_WHILE ? s->wait_ms : s->daemon.timeout_ms;
}

static int give_up(const struct settings *s, const struct call *c, enum away away)
{
    if (!c->may_spool) {
        say("%s: failed, not taken by the daemon: %s", c->hook, c->text);
        return NOWHERE;
    }
    if (!spool_event(s->spool, c->event))
        return NOWHERE;
    fault("spooled");
    say("%s: spooled, not taken by the daemon: %s", c->hook, c->text);
    return away == SPOOL_AND_FAIL ? FAILED : DONE;
}

static int deliver(const struct settings *s, const struct frame *event, const char *hook)
{
    static struct call call;
    enum away away = what_if_away(hook);
    call.daemon = &s->daemon;
    call.event = event;
    call.hook = hook;
    call.patience_ms = patience_ms(s, away);
    call.may_spool = away == SPOOL || away == SPOOL_AND_FAIL;
    int code = ask(&call);
    if (code < 0)
        return give_up(s, &call, away);
    fault("answered");
    if (*call.text)
        say("%s", call.text);
    return code;
}

static int show_version(void)
{
    static const char line[] = "hookd-shim " HOOKD_VERSION " (wire 1)\n";
    return write(STDOUT_FILENO, line, sizeof line - 1) == sizeof line - 1 ? DONE : NOWHERE;
}

static int run(int argc, char **argv)
{
    static struct settings settings;
    static struct frame event; /* 1 MiB of pages that nobody touches costs nothing */
    if (argc == 2 && !strcmp(argv[1], "--version"))
        return show_version();
    if (argc < 2 || !*argv[1] || *argv[1] == '-') {
        say("usage: hookd-shim HOOK ZDBID [ARGUMENT...], or hookd-shim --version");
        return USAGE;
    }
    fault("start");
    read_settings(&settings);
    if (!build_event(&event, settings.daemon.timeout_ms, argc - 1, argv + 1)) {
        say("%s: the arguments are larger than the %d bytes of a frame", argv[1], MAX_BODY);
        return USAGE;
    }
    fault("framed");
    return deliver(&settings, &event, argv[1]);
}

int main(int argc, char **argv)
{
    survive_signals();
    close_inherited();
    fill_standard_descriptors();
    setsid(); /* fails for the leader of a group, which has nothing to leave */
    _exit(run(argc, argv));
}
