/* Being a good child of zdb, which forks without closing anything, sometimes inside of a signal
 * handler, and takes a hook's death by a signal for success. */
#define _GNU_SOURCE
#include "shim.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static void fail(int signal_number)
{
    (void)signal_number;
    _exit(NOWHERE);
}

/* Afterwards only SIGKILL and SIGSTOP act on this program, and a crash of its own reads as a failure.
 * All that others may send is blocked for good, in one system call: 1.5 us of zdb's time, where ignoring
 * them costs that for each. Not by sigprocmask, which silently leaves out 32 and 33, that libc keeps to
 * itself and that end a program all the same. A crash cannot be blocked: the kernel then ends the program
 * by that signal, so those are unblocked and caught. */
void survive_signals(void)
{
    static const int crashes[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGTRAP };
    const struct sigaction action = { .sa_handler = fail };
    uint64_t blocked = ~UINT64_C(0); /* the kernel's set: bit n - 1 for signal n */
    for (size_t i = 0; i < sizeof crashes / sizeof *crashes; i++) {
        sigaction(crashes[i], &action, NULL);
        blocked &= ~(UINT64_C(1) << (crashes[i] - 1));
    }
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &blocked, NULL, sizeof blocked);
}

static void close_listed(void)
{
    DIR *listing = opendir("/proc/self/fd");
    if (!listing) {
        for (int fd = STDERR_FILENO + 1; fd < 65536; fd++)
            close(fd);
        return;
    }
    for (const struct dirent *entry; (entry = readdir(listing));) {
        int fd = atoi(entry->d_name);
        if (fd > STDERR_FILENO && fd != dirfd(listing))
            close(fd);
    }
    closedir(listing);
}

/* Listener, clients and both lock files come down from zdb: while a hook has them open, the next
 * zdb dies of "already using" and clients connect to nobody. Linux before 5.9 has no close_range. */
void close_inherited(void)
{
#if defined SYS_close_range && !defined HOOKD_NO_CLOSE_RANGE
    if (!syscall(SYS_close_range, STDERR_FILENO + 1U, ~0U, 0U))
        return;
#endif
    close_listed();
}

/* A missing 0, 1 or 2 would be the number of the socket, and a message then go to the daemon.
 * open returns the lowest free number; without a /dev, what cannot be written to will do. */
void fill_standard_descriptors(void)
{
    for (int fd = 0; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
            (void)!open("/", O_PATH);
}
