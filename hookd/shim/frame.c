/* Frames: the event out, heartbeats and answers in. The format is the table in hookd/wire.py. */
#define _GNU_SOURCE
#include "shim.h"

#include <limits.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

static void store_u32(unsigned char *to, uint32_t n)
{
    for (int i = 0; i < 4; i++)
        to[i] = (unsigned char)(n >> (24 - 8 * i));
}

static uint32_t load_u32(const unsigned char *from)
{
    return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

/* zlib's CRC-32 by half bytes: most frames are shorter than a table by bytes would be. */
static uint32_t crc32(const unsigned char *at, size_t size)
{
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
        0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
        0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    uint32_t crc = ~0U;
    for (; size > 0; size--) {
        crc ^= *at++;
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

static bool put(struct frame *f, const void *from, size_t size)
{
    if (size > sizeof f->bytes - f->size)
        return false;
    memcpy(f->bytes + f->size, from, size);
    f->size += size;
    return true;
}

static bool put_u32(struct frame *f, uint32_t n)
{
    unsigned char bytes[4];
    store_u32(bytes, n);
    return put(f, bytes, sizeof bytes);
}

static bool put_counted(struct frame *f, const char *text)
{
    size_t size = strlen(text);
    return size <= MAX_BODY && put_u32(f, (uint32_t)size) && put(f, text, size);
}

/* Before the kernel's pool is filled, or in a sandbox without the call, time and pid have to do:
 * the same pid would have to come twice in a nanosecond. */
static void draw_id(unsigned char *id)
{
    struct timespec now;
    if (getrandom(id, ID_SIZE, GRND_NONBLOCK) == ID_SIZE)
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    store_u32(id, (uint32_t)((uint64_t)now.tv_sec >> 32));
    store_u32(id + 4, (uint32_t)now.tv_sec);
    store_u32(id + 8, (uint32_t)now.tv_nsec);
    store_u32(id + 12, (uint32_t)getpid());
}

/* Empty when it was removed, or lies outside of this root. */
static bool put_cwd(struct frame *f)
{
    char cwd[PATH_MAX];
    return put_counted(f, getcwd(cwd, sizeof cwd) && *cwd == '/' ? cwd : "");
}

bool build_event(struct frame *f, uint32_t timeout_ms, int argc, char **argv)
{
    static const unsigned char header[HEADER_SIZE] = { 'H', 'K', 'D', 1, EVENT };
    const unsigned char count[2] = { (unsigned char)(argc >> 8), (unsigned char)argc };
    unsigned char id[ID_SIZE];
    draw_id(id);
    bool fits = argc <= UINT16_MAX && put(f, header, sizeof header) && put(f, id, sizeof id) &&
                put_u32(f, timeout_ms) && put_cwd(f) && put(f, count, sizeof count);
    for (int i = 0; fits && i < argc; i++)
        fits = put_counted(f, argv[i]);
    if (!fits)
        return false;
    store_u32(f->bytes + 8, (uint32_t)(f->size - HEADER_SIZE));
    store_u32(f->bytes + 12, crc32(f->bytes + HEADER_SIZE, f->size - HEADER_SIZE));
    return true;
}

const unsigned char *event_id(const struct frame *f)
{
    return f->bytes + HEADER_SIZE;
}

ssize_t parse_reply(const unsigned char *in, size_t have)
{
    static const unsigned char start[4] = { 'H', 'K', 'D', 1 };
    if (have < HEADER_SIZE)
        return 0;
    uint32_t size = load_u32(in + 8);
    bool sized = in[4] == HEARTBEAT ? size == 0 : in[4] == ANSWER && size - 1 <= MAX_TEXT;
    if (memcmp(in, start, sizeof start) || in[5] || in[6] || in[7] || !sized)
        return -1;
    if (have < HEADER_SIZE + size)
        return 0;
    if (crc32(in + HEADER_SIZE, size) != load_u32(in + 12))
        return -1;
    return (ssize_t)(HEADER_SIZE + size);
}
