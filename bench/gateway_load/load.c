/* A closed-loop HTTP load generator that checks every answer and knows when its first byte came.
 * One thread, epoll, keep-alive: each connection sends its next request when the last is answered.
 *
 * load PORT PATH BODY_FILE --connections N --warm S --seconds S [--min N] [--max-seconds S]
 *      [--header "name: value"]... [--expect TEXT]...
 *
 * Answers that arrive between the warm-up and the end are counted; the end comes after S seconds and N answers,
 * and after --max-seconds at the latest. What is under way then is waited for, uncounted but for
 * `whole`: the number of all answers that arrived complete, with status 200 and with every TEXT in
 * their body. Prints one line of JSON; times are milliseconds. load.py beside it does the same,
 * slower, where there is no compiler.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_BODY (1 << 20)
#define MAX_ERRORS 20000
#define DRAIN_S 60

enum { HEAD, LENGTH, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER, TO_CLOSE };

typedef struct {
    int fd, state, status, closes, asking;
    size_t sent;        /* of the request */
    char line[16384];   /* the head, or the line of a chunk's size */
    size_t line_len, left;
    char *body;
    size_t body_len;
    uint64_t began_ns, first_ns; /* first_ns: of the body's first byte; 0 before it */
} Conn;

static int poll_fd, port, num_connections = 1, num_expected;
static const char *expected[8];
static char *request;
static size_t request_len;
static uint64_t start_ns, warm_ns, seconds_ns, max_ns, end_ns, min_answers;
static uint64_t whole, counted, lost, reset_errors, status_errors, body_errors, connect_errors;
static int under_way;
static uint32_t *latencies_us, *firsts_us; /* tenths of a microsecond */
static size_t num_samples, cap_samples;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t num_errors(void) {
    return reset_errors + status_errors + body_errors + connect_errors;
}

static void keep(uint64_t latency_ns, uint64_t first_ns) {
    if (num_samples == cap_samples) {
        cap_samples = cap_samples ? cap_samples * 2 : 65536;
        latencies_us = realloc(latencies_us, cap_samples * sizeof *latencies_us);
        firsts_us = realloc(firsts_us, cap_samples * sizeof *firsts_us);
    }
    latencies_us[num_samples] = (uint32_t)(latency_ns / 100);
    firsts_us[num_samples++] = (uint32_t)(first_ns / 100);
}

static int is_over(uint64_t now) {
    if (end_ns) return 1;
    uint64_t measured = now < start_ns + warm_ns ? 0 : now - start_ns - warm_ns;
    if ((measured >= seconds_ns && counted >= min_answers) || measured >= max_ns ||
        num_errors() >= MAX_ERRORS)
        end_ns = now;
    return end_ns != 0;
}

static int connected(Conn *c) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (struct sockaddr *)&at, sizeof at)) {
        connect_errors++;
        close(c->fd);
        c->fd = -1;
        return 0;
    }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, c->fd, &e);
    return 1;
}

static void watch(Conn *c, uint32_t what) {
    struct epoll_event e = {.events = what, .data.ptr = c};
    epoll_ctl(poll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

static void disconnect(Conn *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
}

/* Sends what is left of the request; a failure shows when the answer is read. */
static void send_on(Conn *c) {
    while (c->sent < request_len) {
        ssize_t n = send(c->fd, request + c->sent, request_len - c->sent, MSG_NOSIGNAL);
        if (n < 0) {
            watch(c, errno == EAGAIN ? EPOLLIN | EPOLLOUT : EPOLLIN);
            return;
        }
        c->sent += (size_t)n;
        if (c->sent == request_len && (size_t)n != request_len) watch(c, EPOLLIN);
    }
}

static void ask(Conn *c) {
    if (is_over(now_ns())) return;
    if (c->fd < 0 && !connected(c)) return; /* tried again by the main loop */
    c->state = HEAD, c->sent = c->line_len = c->body_len = 0;
    c->first_ns = 0, c->closes = 0;
    c->began_ns = now_ns();
    c->asking = 1, under_way++;
    send_on(c);
}

static void finish(Conn *c, uint64_t *error) {
    uint64_t now = now_ns();
    c->asking = 0, under_way--;
    if (!error) {
        c->body[c->body_len] = 0;
        for (int i = 0; i < num_expected; i++)
            if (!memmem(c->body, c->body_len, expected[i], strlen(expected[i]))) error = &body_errors;
        if (c->status != 200) error = &status_errors;
        if (error && num_errors() < 3)
            fprintf(stderr, "load: HTTP %d: %.500s\n", c->status, c->body);
    }
    if (error) (*error)++;
    else {
        whole++;
        if (now >= start_ns + warm_ns && !end_ns) {
            counted++;
            keep(now - c->began_ns, (c->first_ns ? c->first_ns : now) - c->began_ns);
        }
    }
    if (error == &reset_errors || c->closes || c->state == TO_CLOSE) disconnect(c);
    ask(c);
}

static void take_body(Conn *c, const char *data, size_t n) {
    if (!c->first_ns && n) c->first_ns = now_ns();
    if (n > MAX_BODY - 1 - c->body_len) n = MAX_BODY - 1 - c->body_len;
    memcpy(c->body + c->body_len, data, n);
    c->body_len += n;
}

/* Reads the head in `line`; the next state, or -1 where it is no HTTP. */
static int read_head(Conn *c) {
    c->line[c->line_len] = 0;
    if (sscanf(c->line, "HTTP/1.%*d %d", &c->status) != 1) return -1;
    int state = TO_CLOSE;
    for (char *p = c->line; (p = strchr(p, '\n')) != NULL;) {
        p++;
        if (!strncasecmp(p, "content-length:", 15)) c->left = strtoul(p + 15, NULL, 10), state = LENGTH;
        if (!strncasecmp(p, "transfer-encoding: chunked", 26)) state = CHUNK_SIZE;
        if (!strncasecmp(p, "connection: close", 17)) c->closes = 1;
    }
    c->line_len = 0;
    return state;
}

/* Takes received bytes. 1: the answer is complete; 0: more is needed; -1: it is broken. */
static int take(Conn *c, const char *p, size_t n) {
    while (n) {
        if (c->state == LENGTH || c->state == CHUNK || c->state == TO_CLOSE) {
            size_t some = c->state == TO_CLOSE || n < c->left ? n : c->left;
            take_body(c, p, some);
            p += some, n -= some;
            if (c->state == TO_CLOSE) continue;
            if (!(c->left -= some)) {
                if (c->state == LENGTH) return n ? -1 : 1;
                c->state = CHUNK_END;
            }
            continue;
        }
        if (c->line_len >= sizeof c->line - 1) return -1;
        c->line[c->line_len++] = *p++, n--;
        char *line = c->line;
        size_t len = c->line_len;
        if (line[len - 1] != '\n') continue;
        if (c->state == HEAD) {
            if (len < 4 || memcmp(line + len - 4, "\r\n\r\n", 4)) continue;
            if ((c->state = read_head(c)) < 0) return -1;
            if (c->state == LENGTH && !c->left) return n ? -1 : 1;
            continue;
        }
        c->line_len = 0;
        if (c->state == CHUNK_END) c->state = CHUNK_SIZE;
        else if (c->state == CHUNK_SIZE) c->state = (c->left = strtoul(line, NULL, 16)) ? CHUNK : TRAILER;
        else if (len == 2) return n ? -1 : 1;
    }
    return 0;
}

static void receive(Conn *c) {
    static char buffer[1 << 18];
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    int one = 1; /* not a lasting option: Linux goes back to delayed acknowledgements by itself */
    setsockopt(c->fd, IPPROTO_TCP, TCP_QUICKACK, &one, sizeof one);
    if (n < 0 && errno == EAGAIN) return;
    if (!c->asking) { disconnect(c); return; } /* closed while idle */
    if (n > 0) {
        int done = take(c, buffer, (size_t)n);
        if (done > 0) finish(c, NULL);
        if (done < 0) finish(c, &reset_errors);
    } else if (c->state == TO_CLOSE && n == 0) finish(c, NULL);
    else finish(c, &reset_errors);
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void print_times(const char *name, uint32_t *times) {
    static const double shares[] = {0.5, 0.9, 0.99, 1.0};
    static const char *names[] = {"p50", "p90", "p99", "max"};
    qsort(times, num_samples, sizeof *times, by_size);
    printf(",\"%s\":{", name);
    for (int i = 0; i < 4; i++) {
        size_t at = (size_t)(shares[i] * (double)num_samples);
        if (num_samples && at >= num_samples) at = num_samples - 1;
        if (num_samples) printf("%s\"%s\":%.4f", i ? "," : "", names[i], times[at] / 10000.0);
    }
    printf("}");
}

static void read_request(const char *path, const char *file, const char *headers) {
    FILE *in = fopen(file, "rb");
    if (!in) perror(file), exit(2);
    fseek(in, 0, SEEK_END);
    size_t size = (size_t)ftell(in);
    rewind(in);
    request = malloc(size + strlen(headers) + strlen(path) + 512);
    request_len = (size_t)sprintf(request,
                                  "POST %s HTTP/1.1\r\nhost: 127.0.0.1:%d\r\naccept: */*\r\n"
                                  "content-type: application/json\r\ncontent-length: %zu\r\n%s\r\n",
                                  path, port, size, headers);
    request_len += fread(request + request_len, 1, size, in);
    fclose(in);
}

int main(int argc, char **argv) {
    if (argc < 4) return fprintf(stderr, "usage: load PORT PATH BODY_FILE [options]\n"), 2;
    static char headers[8192];
    double warm = 0.3, seconds = 1, max_seconds = 0;
    port = atoi(argv[1]);
    for (int i = 4; i + 1 < argc; i += 2) {
        const char *option = argv[i], *value = argv[i + 1];
        if (!strcmp(option, "--connections")) num_connections = atoi(value);
        else if (!strcmp(option, "--warm")) warm = atof(value);
        else if (!strcmp(option, "--seconds")) seconds = atof(value);
        else if (!strcmp(option, "--max-seconds")) max_seconds = atof(value);
        else if (!strcmp(option, "--min")) min_answers = strtoul(value, NULL, 10);
        else if (!strcmp(option, "--header")) strcat(strcat(headers, value), "\r\n");
        else if (!strcmp(option, "--expect") && num_expected < 8) expected[num_expected++] = value;
        else return fprintf(stderr, "load: unknown option %s\n", option), 2;
    }
    read_request(argv[2], argv[3], headers);
    warm_ns = (uint64_t)(warm * 1e9), seconds_ns = (uint64_t)(seconds * 1e9);
    max_ns = (uint64_t)((max_seconds > seconds ? max_seconds : seconds) * 1e9);
    poll_fd = epoll_create1(0);
    Conn *conns = calloc((size_t)num_connections, sizeof *conns);
    for (int i = 0; i < num_connections; i++) {
        conns[i].body = malloc(MAX_BODY);
        connected(&conns[i]);
        if (i % 32 == 31) usleep(10000); /* a full listen queue would cost a second each time */
    }
    start_ns = now_ns();
    for (int i = 0; i < num_connections; i++) ask(&conns[i]);
    struct epoll_event ready[512];
    for (;;) {
        int n = epoll_wait(poll_fd, ready, 512, 100);
        for (int i = 0; i < n; i++) {
            Conn *c = ready[i].data.ptr;
            if (c->fd >= 0 && (ready[i].events & EPOLLOUT)) send_on(c);
            if (c->fd >= 0 && (ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) receive(c);
        }
        if (is_over(now_ns())) {
            if (!under_way || now_ns() > end_ns + DRAIN_S * 1000000000ull) break;
        } else if (n <= 0)
            for (int i = 0; i < num_connections; i++)
                if (conns[i].fd < 0) ask(&conns[i]);
    }
    lost = (uint64_t)under_way;
    double measured = (double)(end_ns - start_ns) / 1e9 - warm;
    printf("{\"seconds\":%.4f,\"answers\":%llu,\"whole\":%llu,\"rps\":%.2f,\"errors\":{\"connect\":%llu,"
           "\"reset\":%llu,\"status\":%llu,\"body\":%llu,\"unanswered\":%llu}",
           measured, (unsigned long long)counted, (unsigned long long)whole,
           measured > 0 ? (double)counted / measured : 0, (unsigned long long)connect_errors,
           (unsigned long long)reset_errors, (unsigned long long)status_errors,
           (unsigned long long)body_errors, (unsigned long long)lost);
    print_times("latency_ms", latencies_us);
    print_times("first_byte_ms", firsts_us);
    printf("}\n");
    return 0;
}
