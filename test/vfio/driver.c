/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The driver API's header alone (systems.md B7), and driver libraries that are none (A6).
 *	make check T=vfio/driver
 */
#include <stdio.h>
#include <unistd.h>

#include "world.h"

_Atomic long fake_made, fake_ended;

static char dir[] = "/tmp/userkvm-driver-XXXXXX";

/* Runs a command; true if it succeeded. */
static bool run(const char *fmt, const char *a, const char *b)
{
	char text[512];

	snprintf(text, sizeof(text), fmt, a, b);
	return system(text) == 0;
}

/* Seen to fail with "#include \"base/util.h\"" in the header. */
static void header_alone(void **state)
{
	assert_true(run("printf '#include <userkvm_driver.h>\\n' | "
			"cc -std=c11 -pedantic -Wall -Werror -Iinclude -fsyntax-only -x c - %s%s",
			"", ""));
	if (run("command -v c++ >/dev/null%s%s", "", ""))
		assert_true(run("printf '#include <userkvm_driver.h>\\n' | "
				"c++ -pedantic -Wall -Werror -Iinclude -fsyntax-only -x c++ - %s%s",
				"", ""));
	/* A whole driver with it, which sees no other header of ours. */
	assert_true(
	    run("cc -std=gnu11 -Wall -Werror -shared -fPIC -Iinclude -o %s/%s.so test/vfio/plugin_part.c",
		dir, "good"));
}

/* Each name that could not be loaded has its group and cdev, which cannot be opened. Seen to fail with is_usable
 * always true (the one of another API was opened). */
static void not_loadable(void **state)
{
	for (unsigned n = 0; n < 4; n++) {
		char path[32];

		snprintf(path, sizeof(path), "/dev/vfio/%u", n);
		assert_true(vfio_is_path(path));
		assert_int_equal(vfio_open(path, O_RDWR), -ENODEV);
		snprintf(path, sizeof(path), "/dev/vfio/devices/vfio%u", n);
		assert_true(vfio_is_path(path));
		assert_int_equal(vfio_open(path, O_RDWR), -ENODEV);
		assert_int_equal(vfio_devices[n].plugin->users, 0);
	}
	/* Behind them in the list, what is built in. */
	int fd = vfio_open("/dev/vfio/4", O_RDWR);
	assert_true(fd >= 0);
	file_close(fd);
	fd = vfio_open("/dev/vfio/devices/vfio5", O_RDWR);
	assert_true(fd >= 0);
	file_close(fd);
	assert_false(vfio_is_path("/dev/vfio/6"));
	assert_int_equal(files_live(), 0);
}

/* Paths that are ours, and near misses. */
static void paths(void **state)
{
	static const char *const none[] = {"/dev/vfio",
					   "/dev/vfio/",
					   "/dev/vfio/-1",
					   "/dev/vfio/01",
					   "/dev/vfio/1x",
					   "/dev/vfio/16",
					   "/dev/vfio/4294967296",
					   "/dev/vfio/devices",
					   "/dev/vfio/devices/vfio",
					   "/dev/vfio/devices/vf0",
					   "/dev/iommu/",
					   "/dev/vfio/vfio0",
					   "vfio/0",
					   "/dev/vfio/devices/0"};

	for (unsigned n = 0; n < ARRAY_SIZE(none); n++) {
		assert_false(vfio_is_path(none[n]));
		assert_int_equal(vfio_open(none[n], O_RDWR), -ENOENT);
	}
	assert_true(vfio_is_path("/dev/iommu"));
	assert_true(vfio_is_path("/dev/vfio/vfio"));
}

static int setup(void **state)
{
	char list[512];

	if (!mkdtemp(dir))
		return -1;
	if (!run("cc -shared -fPIC -Iinclude -DBAD -DBAD_API=%s -o %s/api.so test/vfio/plugin_part.c", "2",
		 dir) ||
	    !run("cc -shared -fPIC -Iinclude -DBAD -DBAD_REGION=%s -o %s/region.so test/vfio/plugin_part.c",
		 "4097", dir) ||
	    !run("echo 'int nothing;' | cc -shared -fPIC -o %s/%s.so -x c -", dir, "empty"))
		return -1;
	snprintf(list, sizeof(list), "/nonexistent.so:%s/api.so:%s/region.so::%s/empty.so:test", dir, dir,
		 dir);
	setenv("USERKVM_VFIO", list, 1);
	vfio_init();
	return 0;
}

static int teardown(void **state)
{
	assert_int_equal(lockdep_reports() + base_bug_count(), 0);
	return run("rm -r %s%s", dir, "") ? 0 : -1;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(header_alone),
	    cmocka_unit_test(not_loadable),
	    cmocka_unit_test(paths),
	};

	/* What cannot be loaded is logged as an error, here on purpose; reports are counted by teardown. */
	if (getenv("USERKVM_LOG")) {
		unsetenv("USERKVM_LOG");
		execv("/proc/self/exe", argv);
	}
	return cmocka_run_group_tests(tests, setup, teardown);
}
