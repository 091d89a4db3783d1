/* Makes fsync, fdatasync and sync_file_range fail with EIO for files whose path contains what is
 * written in the file that REDKITE_FAILING_SYNC names, for as long as that file is there. Those that
 * the file of REDKITE_HELD_SYNC is about do not return that long. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int is_named(const char *variable, int fd) {
    const char *flag = getenv(variable);
    char pattern[256], link[64], path[4096];
    ssize_t length;
    int file;

    if (flag == NULL || (file = open(flag, O_RDONLY | O_CLOEXEC)) < 0)
        return 0;
    length = read(file, pattern, sizeof pattern - 1);
    close(file);
    if (length <= 0)
        return 0;
    pattern[length] = '\0';
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = '\0';
    return strstr(path, pattern) != NULL;
}

static int fails(int fd) {
    const struct timespec pause = {0, 5000000};

    while (is_named("REDKITE_HELD_SYNC", fd))
        nanosleep(&pause, NULL);
    return is_named("REDKITE_FAILING_SYNC", fd);
}

int fsync(int fd) {
    static int (*real)(int);
    if (real == NULL)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    if (fails(fd)) {
        errno = EIO;
        return -1;
    }
    return real(fd);
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (real == NULL)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    if (fails(fd)) {
        errno = EIO;
        return -1;
    }
    return real(fd);
}

int sync_file_range(int fd, off64_t offset, off64_t bytes, unsigned int flags) {
    static int (*real)(int, off64_t, off64_t, unsigned int);
    if (real == NULL)
        real = (int (*)(int, off64_t, off64_t, unsigned int))dlsym(RTLD_NEXT, "sync_file_range");
    if (fails(fd)) {
        errno = EIO;
        return -1;
    }
    return real(fd, offset, bytes, flags);
}
