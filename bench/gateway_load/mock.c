/* A mock of an OpenAI-compatible server that costs next to nothing, so that a gateway before it is
 * what gets measured. One thread, epoll, keep-alive.
 *
 * POST anything       a fixed answer of about 300 bytes; where the body says "stream":true, twelve
 *                     server-sent events and [DONE], each in a write of its own
 * GET /pace/FIRST/GAP from now on a stream waits FIRST microseconds for its first event, and about
 *                     GAP for each further one: half to one and a half of it, so that streams do
 *                     not march in step; 0/0 is no wait
 * GET anything else   {"answered": N}
 *
 * mock.py beside it does the same, slower, where there is no compiler.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NUM_EVENTS 12
#define MAX_FDS 65536

typedef struct {
    int fd;
    char *in;
    size_t in_len, in_cap;
    char *out; /* what the socket did not take at once */
    size_t out_len, out_cap;
    int next_event; /* of the stream under way; -1: none */
    int with_usage;
    uint64_t due_ns; /* of that event; 0: not waiting */
    int serial;      /* tells a reused descriptor's timers from its predecessor's */
} Conn;

typedef struct {
    uint64_t due_ns;
    int fd, serial;
} Timer;

static Conn *conns[MAX_FDS];
static Timer heap[MAX_FDS * 2];
static int heap_len, poll_fd, timer_fd, next_serial;
static uint64_t first_us, gap_us, answered;
static char answer[1024], events[NUM_EVENTS][768], usage_event[512];
static int answer_len, event_len[NUM_EVENTS], usage_len;
static const char STREAM_HEAD[] =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    "cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";
static const char STREAM_END[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t jittered_ns(uint64_t us) {
    static uint64_t state = 88172645463325252u;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return us * 500 + state % (us * 1000 + 1);
}

static int chunked(char *into, size_t size, const char *json) {
    return snprintf(into, size, "%zx\r\ndata: %s\n\n\r\n", strlen(json) + 8, json);
}

static void write_answers(void) {
    static const char *words[NUM_EVENTS] = {"", "The", " retry", " delay", " is", " now", " read",
                                            " from", " the", " settings", " file.", ""};
    char json[600];
    int n = snprintf(json, sizeof json,
                     "{\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion\","
                     "\"created\":1760000000,\"model\":\"mock\",\"choices\":[{\"index\":0,"
                     "\"message\":{\"role\":\"assistant\",\"content\":\"The retry delay is now read "
                     "from the settings file.\"},\"finish_reason\":\"stop\"}],\"usage\":{"
                     "\"prompt_tokens\":61,\"completion_tokens\":10,\"total_tokens\":71}}");
    answer_len = snprintf(answer, sizeof answer,
                          "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                          "content-length: %d\r\n\r\n%s", n, json);
    for (int i = 0; i < NUM_EVENTS; i++) {
        char delta[100];
        if (i == NUM_EVENTS - 1) snprintf(delta, sizeof delta, "{}");
        else snprintf(delta, sizeof delta, "{%s\"content\":\"%s\"}",
                      i ? "" : "\"role\":\"assistant\",", words[i]);
        snprintf(json, sizeof json,
                 "{\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\","
                 "\"created\":1760000000,\"model\":\"mock\",\"choices\":[{\"index\":0,\"delta\":%s,"
                 "\"finish_reason\":%s}]}", delta, i == NUM_EVENTS - 1 ? "\"stop\"" : "null");
        event_len[i] = chunked(events[i], sizeof events[i], json);
    }
    usage_len = chunked(usage_event, sizeof usage_event,
                        "{\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\","
                        "\"created\":1760000000,\"model\":\"mock\",\"choices\":[],\"usage\":{"
                        "\"prompt_tokens\":61,\"completion_tokens\":10,\"total_tokens\":71}}");
}

static void drop(Conn *c) {
    conns[c->fd] = NULL;
    close(c->fd);
    free(c->in), free(c->out), free(c);
}

/* False when the connection is gone. */
static int put(Conn *c, const char *data, size_t n) {
    if (!c->out_len) {
        ssize_t sent = send(c->fd, data, n, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) return 0;
        if (sent > 0) data += sent, n -= (size_t)sent;
        if (!n) return 1;
    }
    if (c->out_len + n > c->out_cap) c->out = realloc(c->out, c->out_cap = (c->out_len + n) * 2);
    memcpy(c->out + c->out_len, data, n);
    c->out_len += n;
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.fd = c->fd};
    epoll_ctl(poll_fd, EPOLL_CTL_MOD, c->fd, &e);
    return 1;
}

static int flush(Conn *c) {
    ssize_t sent = send(c->fd, c->out, c->out_len, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN;
    memmove(c->out, c->out + sent, c->out_len -= (size_t)sent);
    if (c->out_len) return 1;
    struct epoll_event e = {.events = EPOLLIN, .data.fd = c->fd};
    return epoll_ctl(poll_fd, EPOLL_CTL_MOD, c->fd, &e) == 0;
}

static void arm(void) {
    struct itimerspec t = {0};
    if (heap_len) {
        t.it_value.tv_sec = (time_t)(heap[0].due_ns / 1000000000u);
        t.it_value.tv_nsec = (long)(heap[0].due_ns % 1000000000u);
    }
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &t, NULL);
}

static void wait_for(Conn *c, uint64_t ns) {
    c->due_ns = now_ns() + ns;
    int i = heap_len++;
    for (; i && heap[(i - 1) / 2].due_ns > c->due_ns; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = (Timer){c->due_ns, c->fd, c->serial};
    if (!i) arm();
}

static Timer pop(void) {
    Timer top = heap[0], last = heap[--heap_len];
    int i = 0;
    for (int child; (child = 2 * i + 1) < heap_len; i = child) {
        if (child + 1 < heap_len && heap[child + 1].due_ns < heap[child].due_ns) child++;
        if (heap[child].due_ns >= last.due_ns) break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

static int proceed(Conn *c); /* answers what is complete in the input */

/* Sends events until one has to be waited for. */
static int stream_on(Conn *c) {
    while (c->next_event >= 0) {
        int i = c->next_event;
        if (i == 0 && !put(c, STREAM_HEAD, sizeof STREAM_HEAD - 1)) return 0;
        if (i == NUM_EVENTS) {
            c->next_event = -1, answered++;
            if (c->with_usage && !put(c, usage_event, (size_t)usage_len)) return 0;
            if (!put(c, STREAM_END, sizeof STREAM_END - 1)) return 0;
            return proceed(c);
        }
        if (!put(c, events[i], (size_t)event_len[i])) return 0;
        c->next_event++;
        if (gap_us && c->next_event < NUM_EVENTS) return wait_for(c, jittered_ns(gap_us)), 1;
    }
    return 1;
}

static int answer_get(Conn *c) {
    unsigned long long first, gap;
    if (sscanf(c->in, "GET /pace/%llu/%llu", &first, &gap) == 2) first_us = first, gap_us = gap;
    char body[64], reply[256];
    int n = snprintf(body, sizeof body, "{\"answered\":%llu}", (unsigned long long)answered);
    n = snprintf(reply, sizeof reply, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                                      "content-length: %d\r\n\r\n%s", n, body);
    return put(c, reply, (size_t)n);
}

static const char *header(const char *head, const char *end, const char *name) {
    size_t n = strlen(name);
    for (const char *p = head; (p = memchr(p, '\n', (size_t)(end - p))) != NULL;)
        if ((size_t)(end - ++p) > n && !strncasecmp(p, name, n)) return p + n;
    return NULL;
}

static int proceed(Conn *c) {
    while (c->in_len && c->next_event < 0) {
        c->in[c->in_len] = 0;
        char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
        if (!end) return 1;
        char *body = end + 4;
        size_t have = c->in_len - (size_t)(body - c->in), size = 0;
        const char *length = header(c->in, end, "content-length:");
        if (length) size = strtoul(length, NULL, 10);
        else if (header(c->in, end, "transfer-encoding:")) {
            if (have < 5 || memcmp(c->in + c->in_len - 5, "0\r\n\r\n", 5)) return 1;
            size = have;
        }
        if (have < size) return 1;
        int fine = 1;
        if (!strncmp(c->in, "GET", 3)) fine = answer_get(c);
        else if (memmem(body, size, "\"stream\":true", 13) || memmem(body, size, "\"stream\": true", 14)) {
            c->next_event = 0;
            c->with_usage = memmem(body, size, "\"include_usage\":true", 20) ||
                            memmem(body, size, "\"include_usage\": true", 21);
        } else answered++, fine = put(c, answer, (size_t)answer_len);
        c->in_len = have - size;
        memmove(c->in, body + size, c->in_len);
        if (!fine) return 0;
        if (c->next_event == 0) {
            if (first_us) return wait_for(c, first_us * 1000), 1;
            return stream_on(c);
        }
    }
    return 1;
}

static int receive(Conn *c) {
    for (;;) {
        if (c->in_cap - c->in_len < 65536) c->in = realloc(c->in, c->in_cap = c->in_cap * 2 + 131072);
        size_t room = c->in_cap - c->in_len - 1;
        ssize_t got = recv(c->fd, c->in + c->in_len, room, 0);
        if (got == 0 || (got < 0 && errno != EAGAIN)) return 0;
        if (got < 0) return 1;
        c->in_len += (size_t)got;
        if (!proceed(c)) return 0;
        if ((size_t)got < room) return 1;
    }
}

static void accept_all(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        if (fd >= MAX_FDS) { close(fd); continue; }
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        Conn *c = calloc(1, sizeof *c);
        c->fd = fd, c->next_event = -1, c->serial = ++next_serial;
        conns[fd] = c;
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &e);
    }
}

static void run_timers(void) {
    uint64_t expirations;
    if (read(timer_fd, &expirations, sizeof expirations) < 0 && errno != EAGAIN) exit(1);
    while (heap_len && heap[0].due_ns <= now_ns()) {
        Timer t = pop();
        Conn *c = conns[t.fd];
        if (c && c->serial == t.serial && !stream_on(c)) drop(c);
    }
    arm();
}

int main(int argc, char **argv) {
    if (argc != 2) return fprintf(stderr, "usage: mock PORT\n"), 2;
    signal(SIGPIPE, SIG_IGN);
    write_answers();
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1])),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 4096))
        return perror("mock"), 1;
    poll_fd = epoll_create1(0);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, listener, &e);
    e.data.fd = timer_fd;
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, timer_fd, &e);
    struct epoll_event ready[512];
    for (;;) {
        int n = epoll_wait(poll_fd, ready, 512, -1);
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            if (fd == listener) { accept_all(listener); continue; }
            if (fd == timer_fd) { run_timers(); continue; }
            Conn *c = conns[fd];
            if (!c) continue;
            if ((ready[i].events & EPOLLOUT) && !flush(c)) { drop(c); continue; }
            if ((ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && !receive(c)) drop(c);
        }
    }
}
