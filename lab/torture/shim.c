/* A disk that can lose power, fill up and turn read-only, for one folder of one process (LD_PRELOAD).
 *
 * Every change to a file in $TORTURE_FOLDER is written to $TORTURE_LOG before it is made, and every fsync after it "was
 * made" (it takes a moment and touches no disk: the page cache survives SIGKILL), and every refusal. lab.torture.disk reads the log and
 * says what a power cut would have left. The first byte of $TORTURE_CONTROL says what the disk is like now:
 * 0 fine, 1 full, 2 read-only. Files mapped into memory are not seen; SQLite maps its -shm file only, which it makes anew.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST_FILES 4096
enum { NOTHING, A_FILE, A_FOLDER };

struct record { /* little-endian, packed; then the path, then the data */
  uint8_t what;
  uint32_t path_bytes, data_bytes;
  uint64_t file, offset;
} __attribute__((packed));

static char kind[MOST_FILES];
static uint64_t number[MOST_FILES];
static int log_fd = -1;
static const char *folder;
static size_t folder_bytes;
static volatile unsigned char *control;
static unsigned int chance;

#define REAL(name) static __typeof__(name) *real_##name; if (!real_##name) real_##name = dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void) {
  REAL(open);
  folder = getenv("TORTURE_FOLDER");
  const char *log = getenv("TORTURE_LOG"), *byte = getenv("TORTURE_CONTROL");
  if (!folder || !log || !byte) return;
  folder_bytes = strlen(folder);
  log_fd = real_open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  int fd = real_open(byte, O_RDONLY | O_CLOEXEC);
  control = fd < 0 ? MAP_FAILED : mmap(NULL, 1, PROT_READ, MAP_SHARED, fd, 0);
  if (log_fd < 0 || control == MAP_FAILED) _exit(99);
  unsetenv("LD_PRELOAD"); /* children are none of our business */
  chance = (unsigned int)getpid();
}

static void tell(uint8_t what, const char *path, uint64_t file, uint64_t offset, const void *data, size_t bytes) {
  REAL(writev);
  struct record head = {what, path ? (uint32_t)strlen(path) : 0, (uint32_t)bytes, file, offset};
  struct iovec parts[3] = {{&head, sizeof head}, {(void *)path, head.path_bytes}, {(void *)data, bytes}};
  int before = errno;
  if (real_writev(log_fd, parts, 3) != (ssize_t)(sizeof head + head.path_bytes + bytes)) _exit(98);
  errno = before;
}

static int ours(const char *path) {
  size_t bytes = path ? strlen(path) : 0;
  if (log_fd < 0 || bytes < folder_bytes || strncmp(path, folder, folder_bytes)) return 0;
  if (path[folder_bytes] != '/' && path[folder_bytes] != 0) return 0;
  return bytes < 4 || strcmp(path + bytes - 4, "-shm");
}

static int refuses(int grows) {
  unsigned char state = control[0];
  if (state == 0 || (state == 1 && !grows)) return 0;
  tell('x', NULL, 0, 0, NULL, 0);
  errno = state == 1 ? ENOSPC : EROFS;
  return 1;
}

static int tracked(int fd) { return fd >= 0 && fd < MOST_FILES && kind[fd] == A_FILE; }

static int opened(int fd, const char *path, int flags, int was_there) {
  struct stat seen;
  if (fd < 0 || fd >= MOST_FILES || fstat(fd, &seen)) return fd;
  kind[fd] = S_ISDIR(seen.st_mode) ? A_FOLDER : A_FILE;
  number[fd] = seen.st_ino;
  if (kind[fd] == A_FILE && !was_there) tell('c', path, seen.st_ino, 0, NULL, 0);
  if (kind[fd] == A_FILE && (flags & O_TRUNC)) tell('t', NULL, seen.st_ino, 0, NULL, 0);
  return fd;
}

#define OPEN(name, call, ...)                                                       \
  int name(__VA_ARGS__, int flags, ...) {                                           \
    REAL(name);                                                                     \
    mode_t mode = 0;                                                                \
    if (flags & O_CREAT) {                                                          \
      va_list rest;                                                                 \
      va_start(rest, flags);                                                        \
      mode = va_arg(rest, mode_t);                                                  \
      va_end(rest);                                                                 \
    }                                                                               \
    if (!ours(path)) return call;                                                   \
    int was_there = access(path, F_OK) == 0;                                        \
    if ((flags & O_ACCMODE) != O_RDONLY && refuses(!was_there)) return -1;          \
    return opened(call, path, flags, was_there);                                    \
  }
OPEN(open, real_open(path, flags, mode), const char *path)
OPEN(open64, real_open64(path, flags, mode), const char *path)
OPEN(openat, real_openat(at, path, flags, mode), int at, const char *path)
OPEN(openat64, real_openat64(at, path, flags, mode), int at, const char *path)

int close(int fd) {
  REAL(close);
  if (fd >= 0 && fd < MOST_FILES) kind[fd] = NOTHING;
  return real_close(fd);
}

#define WRITE_AT(name)                                                              \
  ssize_t name(int fd, const void *data, size_t bytes, off_t offset) {              \
    REAL(name);                                                                     \
    if (tracked(fd)) {                                                              \
      struct stat seen;                                                             \
      if (fstat(fd, &seen)) return -1;                                              \
      if (refuses(offset + (off_t)bytes > seen.st_size)) return -1;                 \
      tell('w', NULL, number[fd], (uint64_t)offset, data, bytes);                   \
    }                                                                               \
    return real_##name(fd, data, bytes, offset);                                    \
  }
WRITE_AT(pwrite)
WRITE_AT(pwrite64)

ssize_t write(int fd, const void *data, size_t bytes) {
  REAL(write);
  if (tracked(fd)) {
    struct stat seen;
    if (fstat(fd, &seen) || refuses(1)) return -1;
    off_t at = fcntl(fd, F_GETFL) & O_APPEND ? seen.st_size : lseek(fd, 0, SEEK_CUR);
    tell('w', NULL, number[fd], (uint64_t)at, data, bytes);
  }
  return real_write(fd, data, bytes);
}

#define TRUNCATE(name)                                                              \
  int name(int fd, off_t length) {                                                  \
    REAL(name);                                                                     \
    if (tracked(fd)) {                                                              \
      if (refuses(0)) return -1;                                                    \
      tell('t', NULL, number[fd], (uint64_t)length, NULL, 0);                       \
    }                                                                               \
    return real_##name(fd, length);                                                 \
  }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

static int synced(int fd) {
  tell('s', NULL, number[fd], (uint64_t)gettid(), NULL, 0); /* what was written before now ... */
  usleep(500 + (useconds_t)(rand_r(&chance) % 4000));
  if (control[0] == 2) { errno = EIO; return -1; }
  tell(kind[fd] == A_FOLDER ? 'D' : 'S', NULL, number[fd], (uint64_t)gettid(), NULL, 0); /* ... is on the disk */
  return 0;
}

#define SYNC(name)                                                                  \
  int name(int fd) {                                                                \
    REAL(name);                                                                     \
    return fd >= 0 && fd < MOST_FILES && kind[fd] != NOTHING ? synced(fd) : real_##name(fd); \
  }
SYNC(fsync)
SYNC(fdatasync)

int unlink(const char *path) {
  REAL(unlink);
  if (ours(path)) {
    if (refuses(0)) return -1;
    tell('u', path, 0, 0, NULL, 0);
  }
  return real_unlink(path);
}

int rename(const char *path, const char *to) {
  REAL(rename);
  if (ours(path)) {
    if (refuses(0)) return -1;
    tell('r', path, 0, 0, to, strlen(to));
  }
  return real_rename(path, to);
}
