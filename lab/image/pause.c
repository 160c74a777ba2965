/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Holds the namespaces of a pod: sleeps until told to stop, and reaps what the pod's other processes leave behind.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void stop(int signal_number) {
	(void)signal_number;
	_exit(0);
}

static void reap(int signal_number) {
	(void)signal_number;
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

int main(int argc, char **argv) {
	/* kubeadm tries before an upgrade whether a Job that does no more than this completes. */
	if (argc > 1 && strcmp(argv[1], "-v") == 0) {
		puts("pause of the lab");
		return 0;
	}
	signal(SIGINT, stop);
	signal(SIGTERM, stop);
	signal(SIGCHLD, reap);
	for (;;)
		pause();
}
