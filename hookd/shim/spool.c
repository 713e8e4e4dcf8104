/* The spool: a folder of files, each one whole EVENT frame, which the daemon takes in when it is
 * back. A file appears under its final name only when its content is on disk. */
#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { HEX_SIZE = 2 * ID_SIZE + 1 };

/* A new folder is a new entry in its parent. Not being allowed to read the parent (and so to sync
 * it) is no reason to lose the event. */
static void sync_parent(int folder)
{
    int parent = openat(folder, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (parent < 0)
        return;
    fsync(parent);
    close(parent);
}

static int open_folder(const char *path)
{
    const int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
    int folder = open(path, flags);
    if (folder >= 0 || errno != ENOENT)
        return folder;
    if (mkdir(path, 0700) && errno != EEXIST)
        return -1;
    folder = open(path, flags);
    if (folder >= 0)
        sync_parent(folder);
    return folder;
}

static bool write_all(int fd, const unsigned char *at, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, at, size);
        if (n < 0 && errno != EINTR)
            return false;
        if (n > 0) {
            at += n;
            size -= (size_t)n;
        }
    }
    return true;
}

static bool write_durably(int folder, const char *name, const struct frame *event)
{
    int fd = openat(folder, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return false;
    fault("spool-open");
    bool written = write_all(fd, event->bytes, event->size);
    fault("spool-written");
    written = written && !fsync(fd);
    int error = errno;
    fault("spool-synced");
    close(fd);
    errno = error;
    return written;
}

/* Names sort by time: the daemon takes events in about as they happened. */
static void final_name(char *name, size_t room, const char *hex)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    snprintf(name, room, "%020" PRIu64 "-%s.event", now_ns, hex);
}

static void to_hex(char *hex, const unsigned char *id)
{
    for (int i = 0; i < ID_SIZE; i++) {
        *hex++ = "0123456789abcdef"[id[i] >> 4];
        *hex++ = "0123456789abcdef"[id[i] & 15];
    }
    *hex = '\0';
}

/* When only the last fsync fails, the file stays: taken in twice is better than not at all. */
static bool place(int folder, const struct frame *event)
{
    char hex[HEX_SIZE];
    char temporary[HEX_SIZE + 8];
    char final[HEX_SIZE + 32];
    to_hex(hex, event_id(event));
    snprintf(temporary, sizeof temporary, ".tmp-%s", hex);
    final_name(final, sizeof final, hex);
    if (!write_durably(folder, temporary, event) || renameat(folder, temporary, folder, final)) {
        int error = errno;
        unlinkat(folder, temporary, 0);
        errno = error;
        return false;
    }
    fault("spool-renamed");
    return !fsync(folder);
}

bool spool_event(const char *path, const struct frame *event)
{
    int folder = open_folder(path);
    bool placed = folder >= 0 && place(folder, event);
    if (!placed)
        say("cannot spool into %s: %s (errno %d)", path, strerror(errno), errno);
    if (folder >= 0)
        close(folder);
    return placed;
}
