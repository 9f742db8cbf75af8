/* A bounded load that makes trace events at a known place: one process, pinned.
 *   load syscalls CPU N            N getppid calls: 2 N raw_syscalls events, all alike
 *   load mixed    CPU N            N rounds of pipe ping-pong with a child, file create/write/unlink,
 *                                  mmap/touch/munmap, UDP loopback
 *   load paced    CPU RATE SECONDS RATE sched_get_priority_max calls a second, which hardly anything else makes
 *   load forks    CPU RATE SECONDS RATE children a second, each of which exits at once
 * Prints the calls, rounds or children done and the wall seconds they took. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WAKES_PER_SECOND 2000.0 /* a higher rate is made in groups: a sleep costs far more than a call */

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static void sleep_until(double when)
{
	struct timespec t = {(time_t)when, (long)((when - (time_t)when) * 1e9)};
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, 0);
}

static void mixed(long rounds)
{
	int to[2], from[2];
	char byte = 1, block[4096] = {0}, path[64];
	if (pipe(to) || pipe(from))
		exit(1);
	pid_t child = fork();
	if (child == 0) {
		close(to[1]);
		while (read(to[0], &byte, 1) == 1)
			if (write(from[1], &byte, 1) != 1)
				break;
		_exit(0);
	}
	int udp = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in self = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof self;
	bind(udp, (struct sockaddr *)&self, len);
	getsockname(udp, (struct sockaddr *)&self, &len);
	snprintf(path, sizeof path, "/tmp/load.%d", getpid());
	for (long i = 0; i < rounds; i++) {
		if (write(to[1], &byte, 1) != 1 || read(from[0], &byte, 1) != 1)
			exit(1);
		sendto(udp, block, 512, 0, (struct sockaddr *)&self, len);
		recv(udp, block, sizeof block, 0);
		char *m = mmap(0, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (int p = 0; p < 16; p++)
			m[p << 12] = (char)i;
		munmap(m, 1 << 16);
		if (i % 16 == 0) {
			int fd = open(path, O_CREAT | O_RDWR, 0600);
			if (write(fd, block, sizeof block) < 0)
				exit(1);
			close(fd);
			unlink(path);
		}
	}
	close(to[1]);
	waitpid(child, 0, 0);
}

static void fork_once(void)
{
	pid_t child = fork();
	if (child == 0)
		_exit(0);
	waitpid(child, 0, 0);
}

static long paced(int forks, double rate, double seconds)
{
	double group = rate > WAKES_PER_SECOND ? rate / WAKES_PER_SECOND : 1, start = now();
	long done = 0, total = (long)(rate * seconds);
	while (done < total) {
		for (long i = 0; i < (long)(group + 0.5) && done < total; i++, done++)
			if (forks)
				fork_once();
			else
				syscall(SYS_sched_get_priority_max, 0);
		sleep_until(start + done / rate);
	}
	return done;
}

int main(int argc, char **argv)
{
	int is_paced = argc == 5 && (!strcmp(argv[1], "paced") || !strcmp(argv[1], "forks"));
	if (!is_paced && argc != 4) {
		fprintf(stderr, "usage: load syscalls|mixed CPU N\n       load paced|forks CPU RATE SECONDS\n");
		return 64;
	}
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(atoi(argv[2]), &set);
	sched_setaffinity(0, sizeof set, &set);
	long n = atol(argv[3]);
	double start = now();
	if (is_paced)
		n = paced(!strcmp(argv[1], "forks"), atof(argv[3]), atof(argv[4]));
	else if (!strcmp(argv[1], "mixed"))
		mixed(n);
	else
		for (long i = 0; i < n; i++)
			syscall(SYS_getppid);
	printf("%ld %.4f\n", n, now() - start);
	return 0;
}
