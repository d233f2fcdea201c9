package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func osRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "Linux"
	}
	return "Linux " + unix.ByteSliceToString(u.Release[:])
}

// tryJail tries what a jail for native plugins is made of.
func tryJail(ctx context.Context) []finding {
	return []finding{
		{"jail", "native plugins", warning, `this version starts native plugins without a jail (sandbox = "none")`, "run as native plugins only what you would run yourself"},
		tryNamespaces(ctx), trySeccomp(), tryLandlock(), tryCgroups(), tryPidfd(), tryMemfd(),
	}
}

func jailFinding(check, found string, err error, remedy string) finding {
	if err != nil {
		return finding{"jail", check, warning, err.Error(), remedy}
	}
	return finding{"jail", check, good, found, ""}
}

// tryNamespaces starts this binary in namespaces of its own.
func tryNamespaces(ctx context.Context) finding {
	remedy := "allow unprivileged user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, or AppArmor's restriction)"
	self, err := os.Executable()
	if err != nil {
		return jailFinding("namespaces", "", err, remedy)
	}
	cmd := exec.CommandContext(ctx, self, "version") //nolint:gosec // this binary
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		return jailFinding("namespaces", "", fmt.Errorf("a process in user, mount, pid, network, ipc and uts namespaces of its own does not run: %w", err), remedy)
	}
	return jailFinding("namespaces", fmt.Sprintf("user, mount, pid, network, ipc and uts, as uid %d", os.Getuid()), nil, "")
}

// trySeccomp asks for what a filter may do with a system call.
func trySeccomp() finding {
	b, err := os.ReadFile("/proc/sys/kernel/seccomp/actions_avail")
	actions := strings.Fields(string(b))
	for _, want := range []string{"errno", "kill_process"} {
		if err == nil && !slices.Contains(actions, want) {
			err = fmt.Errorf("a filter cannot answer with %s", want)
		}
	}
	return jailFinding("seccomp", strings.Join(actions, " "), err, "use a kernel with CONFIG_SECCOMP_FILTER")
}

// tryLandlock asks for the version of Landlock's interface,
// landlock_create_ruleset(2).
func tryLandlock() finding {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(nil)), 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	var err error
	if errno != 0 {
		err = fmt.Errorf("landlock: %w", errno)
	}
	return jailFinding("landlock", fmt.Sprintf("interface version %d", abi), err, "use Linux 5.13 or later, with landlock among the lsm= of its command line")
}

// tryCgroups looks for a hierarchy that memory and processes can be limited in.
func tryCgroups() finding {
	const root = "/sys/fs/cgroup"
	remedy := "run the kernel in a delegated cgroup (systemd: Delegate=yes); rlimits stand in"
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return jailFinding("cgroups", "", fmt.Errorf("%s: %w", root, err), remedy)
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		b, err := os.ReadFile(root + "/cgroup.controllers")
		return jailFinding("cgroups", "version 2: "+strings.TrimSpace(string(b)), errors.Join(err, unix.Access(root, unix.W_OK)), remedy)
	}
	var errs []error
	for _, controller := range []string{"memory", "pids"} {
		if err := unix.Access(root+"/"+controller, unix.W_OK); err != nil {
			errs = append(errs, fmt.Errorf("version 1, %s: %w", controller, err))
		}
	}
	return jailFinding("cgroups", "version 1: memory, pids", errors.Join(errs...), remedy)
}

func tryPidfd() finding {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err == nil {
		err = unix.Close(fd)
	}
	return jailFinding("pidfd", "a child is killed without a race for its id", err, "use Linux 5.3 or later")
}

func tryMemfd() finding {
	fd, err := unix.MemfdCreate("forgeone-doctor", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err == nil {
		err = unix.Close(fd)
	}
	return jailFinding("memfd", "images of instances need no disk", err, "allow memfd_create; temporary files stand in")
}
