/* Calls of the system that fail, lie or are noted: preloaded into a process by tests.faults.calls.
 *
 * Environment, looked at in every call, since processes are forked from one that is warm:
 *   FAULT_ROOT   only files below it
 *   FAULT_LOG    every such call is appended here: "call path" or "rename path new-path"
 *   FAULT_CALL   the call to hurt: write, read, fsync, rename or close
 *   FAULT_COUNT  file of 8 bytes that counts it over all processes of a run
 *   FAULT_AT     number of the call that is hurt, from 1; later ones too with FAULT_ON
 *   FAULT_ERRNO  what it fails with; 0: one byte is written (SHORT), -1: none, and one is claimed
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
enum { SOUND = -3, LIE = -1, SHORT = 0 };

static const char *below(const char *path) {
    const char *root = getenv("FAULT_ROOT");
    return root && strncmp(path, root, strlen(root)) == 0 ? path : NULL;
}

static const char *path_of(int fd, char *place) {
    char link[32];
    if (!getenv("FAULT_ROOT")) return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlink, link, place, 4095);
    if (n < 0) return NULL;
    place[n] = 0;
    return below(place);
}

static long number_of_call(void) {
    const char *name = getenv("FAULT_COUNT");
    int fd = name ? (int)syscall(SYS_openat, AT_FDCWD, name, O_RDWR | O_CREAT, 0600) : -1;
    if (fd < 0) return 0;
    syscall(SYS_ftruncate, fd, 8L);
    atomic_long *shared = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (shared == MAP_FAILED) return 0;
    long number = atomic_fetch_add(shared, 1) + 1;
    munmap(shared, 8);
    return number;
}

static void note(const char *call, const char *path, const char *other) {
    const char *log = getenv("FAULT_LOG");
    char line[8300];
    int fd = log ? (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT, 0600) : -1;
    if (fd < 0) return;
    int n = snprintf(line, sizeof line, "%s\t%s\t%s\n", call, path, other);
    syscall(SYS_write, fd, line, (size_t)n);
    syscall(SYS_close, fd);
}

/* Return what becomes of a call: SOUND, LIE, SHORT or the number of an error. */
static int fate(const char *call, const char *path, const char *other) {
    const char *hurt = getenv("FAULT_CALL"), *at = getenv("FAULT_AT"), *e = getenv("FAULT_ERRNO");
    int before = errno;
    if (!path) return SOUND;
    note(call, path, other);
    long n = hurt && at && e && strcmp(hurt, call) == 0 ? number_of_call() : 0;
    errno = before;
    long first = n ? atol(at) : 0;
    if (first == 0) return SOUND;
    return n == first || (n > first && getenv("FAULT_ON")) ? atoi(e) : SOUND;
}

#define GUARD(call, path, other, really)                    \
    int error = fate(call, path, other);                    \
    if (error > 0) { errno = error; return -1; }            \
    really

#define WRITES(name, args, ...)                             \
    ssize_t name args {                                     \
        char place[4096];                                   \
        GUARD("write", path_of(fd, place), "", );           \
        if (error == LIE && count > 1) return 1;            \
        if (error == SHORT && count > 1) count = 1;         \
        return REAL(name)(__VA_ARGS__);                     \
    }

#define READS(name, args, ...)                              \
    ssize_t name args {                                     \
        char place[4096];                                   \
        GUARD("read", path_of(fd, place), "", );            \
        return REAL(name)(__VA_ARGS__);                     \
    }

WRITES(write, (int fd, const void *buf, size_t count), fd, buf, count)
WRITES(pwrite, (int fd, const void *buf, size_t count, off_t at), fd, buf, count, at)
WRITES(pwrite64, (int fd, const void *buf, size_t count, off64_t at), fd, buf, count, at)
READS(read, (int fd, void *buf, size_t count), fd, buf, count)
READS(pread, (int fd, void *buf, size_t count, off_t at), fd, buf, count, at)
READS(pread64, (int fd, void *buf, size_t count, off64_t at), fd, buf, count, at)

int fsync(int fd) {
    char place[4096];
    GUARD("fsync", path_of(fd, place), "", return REAL(fsync)(fd);)
}

int rename(const char *from, const char *to) {
    GUARD("rename", below(to), from, return REAL(rename)(from, to);)
}

int close(int fd) {
    char place[4096];
    int error = fate("close", path_of(fd, place), "");
    int done = REAL(close)(fd);
    if (error > 0) { errno = error; return -1; }
    return done;
}
