/* The plain recorders that the collector is measured against.
 *   recorder splice PIPE OUT   pages spliced to a file undecoded: the way of trace-cmd record
 *   recorder read   PIPE OUT   pages read and written undecoded
 *   recorder null   PIPE -     pages read and dropped: the floor of the read path
 * read and null don't chase the writer: after a page that is not full they wait for the
 * watermark or 100 ms. Runs until SIGTERM, then drains and prints bytes taken. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t stop;
static void on_term(int s) { (void)s; stop = 1; }

int main(int argc, char **argv)
{
	if (argc != 4)
		return 64;
	signal(SIGTERM, on_term);
	int in = open(argv[2], O_RDONLY | O_NONBLOCK), pipefd[2];
	int out = argv[3][0] == '-' ? -1 : open(argv[3], O_WRONLY | O_CREAT | O_TRUNC, 0644);
	if (in < 0 || pipe(pipefd))
		return perror(argv[2]), 1;
	fcntl(pipefd[1], F_SETPIPE_SZ, 1 << 20);
	size_t cap = 1 << 20, total = 0;
	char *buf = aligned_alloc(4096, cap), mode = argv[1][0]; /* page-aligned: copies are 3 times faster */
	struct pollfd p = {in, POLLIN, 0};
	for (;;) {
		ssize_t n;
		if (mode == 's') {
			n = splice(in, 0, pipefd[1], 0, cap, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
			for (ssize_t left = n; left > 0;) {
				ssize_t w = splice(pipefd[0], 0, out, 0, left, SPLICE_F_MOVE);
				if (w <= 0)
					return perror("splice"), 1;
				left -= w;
			}
		} else {
			n = read(in, buf, cap);
			if (n > 0 && out >= 0 && write(out, buf, n) != n)
				return perror("write"), 1;
		}
		if (n > 0) {
			uint64_t commit;
			memcpy(&commit, buf + 8, sizeof commit);
			total += n;
			if (mode == 's' || (ssize_t)(commit & 0x3fffffff) > n - 512 || stop)
				continue;
			poll(&p, 1, 100);
			continue;
		}
		if (n < 0 && errno != EAGAIN)
			return perror("read"), 1;
		if (stop)
			break;
		poll(&p, 1, 100);
	}
	printf("%zu\n", total);
	return 0;
}
