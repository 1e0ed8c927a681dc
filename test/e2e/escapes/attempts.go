package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// attempts are what must be refused. Files that escapes.sh has put there are readable, or
// writable, for everybody: it is the sandbox that must refuse, and not their mode.
func attempts() []attempt {
	return []attempt{
		{"read", "the home of another user", reads("/home/alice/secret")},
		{"read", "root's home", reads("/root/secret")},
		{"read", "what is served from /srv", reads("/srv/secret")},
		{"read", "the hashes of passwords", reads("/etc/shadow")},
		{"read", "the memory of another process", reads("/proc/1/mem")},
		{"read", "the variables of another process", reads("/proc/1/environ")},
		{"read", "the kernel's log", reads("/dev/kmsg")},

		{"write", "its own configuration", writes("/etc/keyagent/escaped")},
		{"write", "/etc", writes("/etc/escaped")},
		{"write", "/usr", writes("/usr/escaped")},
		{"write", "the program itself", writes("/usr/bin/keyagent")},
		{"write", "a directory that is everybody's", writes("/var/lib/everybodys/escaped")},
		{"write", "/dev/shm", writes("/dev/shm/escaped")},
		{"write", "/run", writes("/run/escaped")},
		{"write", "the directory of its sockets", writes("/run/keyagent/escaped")},
		{"write", "to take its socket away", func(env) error { return os.Remove("/run/keyagent/agent.sock") }},
		{"write", "another socket in the place of its own", replacesSocket},
		{"write", "a setting of the kernel", writes("/proc/sys/kernel/core_pattern")},
		{"write", "the tree of cgroups", writes("/sys/fs/cgroup/cgroup.procs")},
		{"write", "the machine's /tmp", sharesTmp},

		{"devices", "the bare TPM", opens("/dev/tpm0")},
		{"devices", "memory", opens("/dev/mem")},
		{"devices", "a disk", opensAny("/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/loop0")},
		{"devices", "the console", opens("/dev/console")},
		{"devices", "FUSE", opens("/dev/fuse")},
		{"devices", "a device of its own making", makesDevice},

		{"privileges", "to become root", func(env) error { return unix.Setuid(0) }},
		{"privileges", "a file with the set-user-id bit", setUserID},
		{"privileges", "a program with the set-user-id bit", runs("/usr/bin/su", "--version")},
		{"privileges", "a namespace of users", onThread(func() error { return unix.Unshare(unix.CLONE_NEWUSER) })},
		{"privileges", "a namespace of mounts", onThread(func() error { return unix.Unshare(unix.CLONE_NEWNS) })},
		{"privileges", "to mount", func(env) error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") }},
		{"privileges", "another root directory", func(env) error { return unix.Chroot("/tmp") }},
		{"privileges", "to trace another process", traces},
		{"privileges", "to load a module", func(env) error { return unix.InitModule([]byte("x"), "") }},
		{"privileges", "BPF", raw(unix.SYS_BPF)},
		{"privileges", "performance counters", raw(unix.SYS_PERF_EVENT_OPEN)},
		{"privileges", "io_uring", raw(unix.SYS_IO_URING_SETUP)},
		{"privileges", "faults of memory to itself", raw(unix.SYS_USERFAULTFD)},
		{"privileges", "the kernel's keys of others", raw(unix.SYS_KEYCTL)},
		{"privileges", "to set the clock", setClock},
		{"privileges", "to set the host's name", func(env) error { return unix.Sethostname([]byte("escaped")) }},
		{"privileges", "to restart the machine", func(env) error { return unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) }},
		{"privileges", "a real-time priority", raw(unix.SYS_SCHED_SETSCHEDULER)},
		{"privileges", "to trade its personality", func(env) error { return call(unix.SYS_PERSONALITY, 0x0040000) }},
		{"privileges", "a core file", coreFile},

		{"network", "packets past the firewall", socket(unix.AF_PACKET, unix.SOCK_RAW)},
		{"network", "raw IP", socket(unix.AF_INET, unix.SOCK_RAW)},
		{"network", "the host of the virtual machine", socket(unix.AF_VSOCK, unix.SOCK_STREAM)},
		{"network", "the kernel's ciphers", socket(unix.AF_ALG, unix.SOCK_SEQPACKET)},
		{"network", "Bluetooth", socket(unix.AF_BLUETOOTH, unix.SOCK_RAW)},
		{"network", "CAN", socket(unix.AF_CAN, unix.SOCK_RAW)},
		{"network", "TIPC", socket(unix.AF_TIPC, unix.SOCK_RDM)},
		{"network", "XDP", socket(unix.AF_XDP, unix.SOCK_RAW)},
		{"network", "the keys of IPsec", socket(unix.AF_KEY, unix.SOCK_RAW)},
		{"network", "RDS", socket(unix.AF_RDS, unix.SOCK_SEQPACKET)},
		{"network", "a port below 1024", listens("127.0.0.1:85")},
		{"network", "addresses that it does not need", reaches},

		{"code", "a shell", runs("/bin/sh", "-c", "true")},
		{"code", "a shell by the C library's loader", runs("/lib64/ld-linux-x86-64.so.2", "/bin/sh", "-c", "true")},
		{"code", "a small shell beside libraries", runs("/usr/lib/klibc/bin/sh", "-c", "true")},
		{"code", "busybox", runs("/bin/busybox", "true")},
		{"code", "a program of apt's", runs("/usr/lib/apt/apt-helper", "--version")},
		{"code", "any other program of the machine", runsAny},
		{"code", "a program that it has written", runsOwn},
		{"code", "a program in memory", runsMemory},
		{"code", "a library that it has written", mapsOwn},
		{"code", "memory that can be written and executed", func(env) error { return maps(unix.PROT_READ | unix.PROT_WRITE | unix.PROT_EXEC) }},
		{"code", "to make written memory executable", protects},
	}
}

// controls are what the agent needs.
func controls() []attempt {
	return []attempt{
		{"needed", "its state directory", func(e env) error { return writes(filepath.Join(e.state, "escapes"))(e) }},
		{"needed", "its configuration's directory", func(env) error { _, err := os.ReadDir("/etc/keyagent"); return err }},
		{"needed", "the boot's id", reads("/proc/sys/kernel/random/boot_id")},
		{"needed", "the cgroup of another process", reads("/proc/1/cgroup")},
		{"needed", "the cgroup of a unit", func(env) error { _, err := os.Stat("/sys/fs/cgroup/system.slice"); return err }},
		{"needed", "the owner of a connection", socket(unix.AF_NETLINK, unix.SOCK_RAW)},
		{"needed", "the TPM", opens("/dev/tpmrm0")},
		{"needed", "random numbers", reads("/dev/urandom")},
		{"needed", "users of a directory", runs("/usr/bin/getent", "passwd", "root")},
		{"needed", "loopback", listens("127.0.0.1:0")},
		{"needed", "addresses that it needs", sendsTo},
		{"needed", "Landlock", landlock},
	}
}

func reads(path string) func(env) error {
	return func(env) error {
		file, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) && !hidden(path) {
			return errAbsent
		}
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = file.Read(make([]byte, 16))
		return err
	}
}

// hidden reports whether escapes.sh has made the file, so that its absence is the sandbox' doing.
func hidden(path string) bool { return filepath.Base(path) == "secret" }

func writes(path string) func(env) error {
	return func(env) error {
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		_, err = file.WriteString("x")
		return errors.Join(err, file.Close())
	}
}

// replacesSocket puts a socket of its own where programs look for the agent.
func replacesSocket(env) error {
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: "/run/keyagent/other.sock"})
	if err != nil {
		return err
	}
	return errors.Join(os.Rename("/run/keyagent/other.sock", "/run/keyagent/agent.sock"), ln.Close())
}

// sharesTmp looks for what escapes.sh has left in the machine's /tmp.
func sharesTmp(env) error {
	_, err := os.Stat("/tmp/escapes-was-here")
	return err
}

func opens(path string) func(env) error {
	return func(env) error {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return errAbsent
		}
		file, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			return err
		}
		return file.Close()
	}
}

func opensAny(paths ...string) func(env) error {
	return func(e env) error {
		for _, path := range paths {
			if err := opens(path)(e); !errors.Is(err, errAbsent) {
				return err
			}
		}
		return errAbsent
	}
}

func makesDevice(e env) error {
	return unix.Mknod(filepath.Join(e.state, "null"), unix.S_IFCHR|0o600, 1<<8|3)
}

func setUserID(e env) error {
	path := filepath.Join(e.state, "escapes-suid")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		return errAbsent
	}
	defer func() { _ = os.Remove(path) }()
	return unix.Chmod(path, 0o4755)
}

func runs(path string, args ...string) func(env) error {
	return func(env) error {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return errAbsent
		}
		return exec.CommandContext(context.Background(), path, args...).Run() // #nosec G204 -- of the table
	}
}

// onThread is for what changes a thread, which then ends.
func onThread(f func() error) func(env) error {
	return func(env) error {
		done := make(chan error)
		go func() {
			runtime.LockOSThread()
			done <- f()
		}()
		return <-done
	}
}

// raw makes a system call without arguments, which fails in any case: it counts how.
func raw(number uintptr) func(env) error {
	return func(env) error {
		_, _, errno := unix.Syscall(number, 0, 0, 0)
		if errno == unix.EPERM || errno == unix.ENOSYS || errno == unix.EACCES {
			return errno
		}
		return nil // it has got as far as to look at its arguments
	}
}

func call(number, argument uintptr) error {
	if _, _, errno := unix.Syscall(number, argument, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

func traces(env) error {
	if err := unix.PtraceAttach(1); err != nil {
		return err
	}
	return unix.PtraceDetach(1)
}

func setClock(env) error {
	var now unix.Timeval
	if err := unix.Gettimeofday(&now); err != nil {
		return errAbsent
	}
	return unix.Settimeofday(&now)
}

func coreFile(env) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		return err
	}
	if limit.Max == 0 {
		return errors.New("the limit is 0")
	}
	return nil
}

func socket(family, kind int) func(env) error {
	return func(env) error {
		fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	}
}

func listens(address string) func(env) error {
	return func(env) error {
		ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", address)
		if err != nil {
			return err
		}
		return ln.Close()
	}
}

// reaches is refused if each of the addresses is. The firewall of a cgroup tells who sends a
// datagram that it was refused (EPERM); of a connection it drops the packets, without a word.
func reaches(e env) error {
	refused := errAbsent
	for _, address := range e.addresses {
		refused = sends(address)
		if !errors.Is(refused, unix.EPERM) {
			fmt.Printf("a datagram to %s: %v\n", address, refused)
			return nil // sent, or merely lost
		}
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "tcp", address)
		if err == nil {
			return conn.Close()
		}
	}
	return refused
}

func sendsTo(e env) error {
	err := errAbsent
	for _, address := range e.needed {
		if err = sends(address); err != nil {
			return err
		}
	}
	return err
}

// sends sends a datagram.
func sends(address string) error {
	conn, err := (&net.Dialer{}).DialContext(context.Background(), "udp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte("x"))
	return err
}

func ownProgram(e env) (string, error) {
	text, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return "", err
	}
	path := filepath.Join(e.state, "escapes-program")
	return path, os.WriteFile(path, text, 0o700) // #nosec G306 G703 -- a program, in a folder that the test names
}

func runsOwn(e env) error {
	path, err := ownProgram(e)
	if err != nil {
		return errAbsent
	}
	defer func() { _ = os.Remove(path) }()
	return exec.CommandContext(context.Background(), path, "-h").Run() // #nosec G204 -- its own
}

func runsMemory(env) error {
	fd, err := unix.MemfdCreate("escapes", 0)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), "escapes")
	defer file.Close()
	text, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	if _, err := file.Write(text); err != nil {
		return err
	}
	return exec.CommandContext(context.Background(), fmt.Sprintf("/proc/self/fd/%d", fd), "-h").Run() // #nosec G204 -- its own
}

// mapsOwn does what dlopen(3) does with a library.
func mapsOwn(e env) error {
	path, err := ownProgram(e)
	if err != nil {
		return errAbsent
	}
	defer func() { _ = os.Remove(path) }()
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	text, err := unix.Mmap(int(file.Fd()), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	return unix.Munmap(text)
}

func maps(protection int) error {
	memory, err := unix.Mmap(-1, 0, os.Getpagesize(), protection, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	return unix.Munmap(memory)
}

func protects(env) error {
	memory, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return errAbsent
	}
	defer func() { _ = unix.Munmap(memory) }()
	return unix.Mprotect(memory, unix.PROT_READ|unix.PROT_EXEC)
}

// landlock asks for the version of it, which is not asked for where the kernel has none.
func landlock(env) error {
	_, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch errno {
	case 0:
		return nil
	case unix.ENOSYS, unix.EOPNOTSUPP:
		return errAbsent
	}
	return errno
}
