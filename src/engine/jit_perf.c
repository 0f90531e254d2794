/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * USERKVM_PERF=1: /tmp/perf-PID.map, by which `perf report` names blocks. USERKVM_SYMBOLS=FILE, a System.map: names
 * them by the guest kernel's symbols (boot it with nokaslr).
 *
 * perf looks into the map for code in anonymous memory only, so this code memory is such.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>

#include "base/sys.h"
#include "engine/jit.h"

struct symbol {
	uint64_t at;
	uint32_t name; /* offset in the file's text */
};

static struct mutex perf_lock = {.role = LOCK_PERF}; /* the map is being opened */
static struct symbol *symbols;
static size_t nsymbols;
static char *symbol_text;
static int map_fd = -1;
static long map_pid; /* whose map map_fd is: a forked child has its own */

bool jit_perf_on(void)
{
	static _Atomic int on; /* 0 not asked yet, 1 no, 2 yes */

	if (!atomic_load_explicit(&on, memory_order_relaxed)) {
		const char *s = getenv("USERKVM_PERF");

		atomic_store(&on, s && *s && strcmp(s, "0") ? 2 : 1);
	}
	return atomic_load_explicit(&on, memory_order_relaxed) == 2;
}

/* -- Symbols -- */

static int by_address(const void *a, const void *b)
{
	const struct symbol *x = a, *y = b;

	return x->at < y->at ? -1 : x->at > y->at;
}

/* The file's bytes and a 0; NULL. */
static char *read_text(const char *path)
{
	long fd = sys_call(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC), n, size = 0;
	char *text = NULL;

	if (fd < 0)
		return NULL;
	size = sys_call(SYS_lseek, fd, 0, SEEK_END);
	if (size > 0)
		text = malloc((size_t)size + 1);
	n = text ? sys_call(SYS_pread64, fd, text, size, 0) : 0;
	sys_call(SYS_close, fd);
	if (text)
		text[MAX(n, 0)] = 0;
	return text;
}

/* Lines "ADDRESS TYPE NAME"; text symbols are kept, with their names cut off in place. */
static void load_symbols(void)
{
	const char *path = getenv("USERKVM_SYMBOLS");
	size_t room = 0;

	symbol_text = path && *path ? read_text(path) : NULL;
	for (char *line = symbol_text, *next; line && *line; line = next) {
		char *end = strchr(line, '\n'), *name;
		uint64_t at = strtoull(line, &name, 16);

		next = end ? end + 1 : line + strlen(line);
		if (end)
			*end = 0;
		if (name == line || name[0] != ' ' || !name[1] || !strchr("tTwW", name[1]) || name[2] != ' ')
			continue;
		if (nsymbols == room) {
			struct symbol *more = realloc(symbols, (room * 2 + 1024) * sizeof(*symbols));

			if (!more)
				break;
			symbols = more;
			room = room * 2 + 1024;
		}
		symbols[nsymbols++] = (struct symbol){at, (uint32_t)(name + 3 - symbol_text)};
	}
	qsort(symbols, nsymbols, sizeof(*symbols), by_address);
}

#define SYMBOL_REACH (1u << 20) /* behind the last symbol is user code or a module */

/* The symbol at or before rip; NULL. */
static const struct symbol *symbol_of(uint64_t rip)
{
	size_t lo = 0, hi = nsymbols;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (symbols[mid].at <= rip)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo && rip - symbols[lo - 1].at < SYMBOL_REACH ? &symbols[lo - 1] : NULL;
}

/* -- The map -- */

static void open_map(void)
{
	char path[64];
	long fd;

	if (!symbol_text)
		load_symbols();
	snprintf(path, sizeof(path), "/tmp/perf-%ld.map", map_pid);
	if (map_fd >= 0)
		sys_call(SYS_close, map_fd);
	fd = sys_call(SYS_openat, AT_FDCWD, path,
		      O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0644);
	map_fd = fd < 0 ? -1 : sys_fd_claim((int)fd);
}

bool jit_perf_memory(struct jit *j)
{
	void *rw = mmap(NULL, JIT_CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	void *rx;

	mutex_lock(&perf_lock);
	if (map_pid != sys_call(SYS_getpid)) {
		map_pid = sys_call(SYS_getpid);
		open_map();
	}
	mutex_unlock(&perf_lock);
	if (rw == MAP_FAILED)
		return false;
	j->rw = rw;
	rx = mremap(rw, 0, JIT_CODE_SIZE, MREMAP_MAYMOVE); /* the same memory a second time */
	if (rx == MAP_FAILED)
		return false;
	j->rx = rx;
	return !mprotect(rx, JIT_CODE_SIZE, PROT_READ | PROT_EXEC);
}

void jit_perf_thunks(const struct jit *j)
{
	char line[80];
	int n = snprintf(line, sizeof(line), "%lx %x [enter, leave, slow]\n", (uint64_t)j->rx, j->thunks_end);

	if (jit_perf_on() && map_fd >= 0)
		sys_call(SYS_write, map_fd, line, n);
}

void jit_perf_block(const struct jit *j, const struct jit_block *b)
{
	uint64_t at = (uint64_t)j->rx + b->entry;
	const struct symbol *s;
	char line[256];
	int n;

	if (!jit_perf_on() || map_fd < 0)
		return;
	s = symbol_of(b->rip);
	n = snprintf(line, sizeof(line), "%lx %x ", at, j->used - b->entry);
	if (s)
		n += snprintf(line + n, sizeof(line) - (size_t)n, "guest %.150s+0x%lx\n",
			      symbol_text + s->name, b->rip - s->at);
	else
		n += snprintf(line + n, sizeof(line) - (size_t)n, "guest 0x%lx\n", b->rip);
	sys_call(SYS_write, map_fd, line, n); /* one line, one append: vCPUs do not mix theirs */
}
