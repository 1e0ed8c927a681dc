package tpm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultDevice is the kernel's resource manager: each open of it is a space of its own, and what was loaded there is
// flushed when it closes. The device without rm in its name, /dev/tpm0, is the bare TPM.
const DefaultDevice = "/dev/tpmrm0"

// dialTimeout bounds connecting to a socket. The TPM's own socket is on this machine.
const dialTimeout = 10 * time.Second

// device says where a TPM is: network "unix" or "tcp" with an address, or network "" with the path of a character device.
type device struct {
	network string
	address string
	sysfs   string // where the kernel describes its devices; empty means /sys
}

func (d device) String() string {
	if d.network == "" {
		return d.address
	}
	return d.network + ":" + d.address
}

// parseDevice reads a device setting: "device:/dev/tpmrm0" or just "/dev/tpmrm0", "unix:/path", "tcp:host:port". Empty
// means [DefaultDevice].
func parseDevice(setting string) (device, error) {
	if setting == "" {
		setting = DefaultDevice
	}
	if strings.HasPrefix(setting, "/") {
		return device{address: setting}, nil
	}
	scheme, address, _ := strings.Cut(setting, ":")
	if address == "" {
		scheme = ""
	}
	switch scheme {
	case "device":
		return device{address: address}, nil
	case "unix":
		return device{network: "unix", address: address}, nil
	case "tcp":
		if _, _, err := net.SplitHostPort(address); err != nil {
			return device{}, fmt.Errorf("TPM device %q: %w: write tcp:HOST:PORT", setting, err)
		}
		return device{network: "tcp", address: address}, nil
	}
	return device{}, fmt.Errorf("TPM device %q: write device:/dev/tpmrm0, unix:/path/to/socket or tcp:HOST:PORT", setting)
}

// stream carries raw TPM commands and responses, nothing around them.
type stream interface {
	io.ReadWriteCloser
	// SetDeadline returns os.ErrNoDeadline where there is none to set.
	SetDeadline(t time.Time) error
}

// open connects. Its error is ErrUnavailable and says what to do.
func (d device) open(ctx context.Context) (stream, error) {
	s, err := d.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: opening %s: %w: %s", ErrUnavailable, d, rootCause(err), openHint(d, err))
	}
	return s, nil
}

func (d device) dial(ctx context.Context) (stream, error) {
	if d.network == "" {
		return openCharDevice(d.address)
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	return dialer.DialContext(ctx, d.network, d.address)
}

// openCharDevice opens a TPM character device for blocking reads and writes.
//
// Not os.OpenFile, which would put the descriptor into O_NONBLOCK and into the runtime's poller. On a TPM device that is
// wrong twice. A read before the answer is ready returns 0 there, not EAGAIN, and Go takes 0 for the end of the file. And
// the driver's poll waits for the command under way, so that the runtime's poller, and with it every connection of the
// process, would stand still meanwhile. A blocked thread is harmless, and the kernel ends every command in its time.
func openCharDevice(path string) (stream, error) {
	// A wrong setting must not write TPM commands into some file.
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode()&fs.ModeSocket != 0 {
		return nil, fmt.Errorf("%s is a socket: write unix:%s", path, path)
	}
	if info.Mode()&fs.ModeCharDevice == 0 {
		return nil, fmt.Errorf("%s is not a character device", path)
	}
	fd, err := openRetrying(path, syscall.O_RDWR|syscall.O_CLOEXEC|syscall.O_NOCTTY)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil // #nosec G115 -- a descriptor is not negative here
}

func openRetrying(path string, flags int) (int, error) {
	for {
		fd, err := syscall.Open(path, flags, 0)
		if !errors.Is(err, syscall.EINTR) {
			return fd, err
		}
	}
}

// managed reports whether an open stream goes to the kernel's resource manager, which alone gives
// each open an empty space. It goes by the class that the kernel has the device in: names can be
// given by anybody, as containers do. If that is not known, it is not believed: then what is loaded
// is looked for, and not found.
func (d device) managed(s stream) bool {
	file, ok := s.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	number := fmt.Sprintf("%d:%d", unix.Major(stat.Rdev), unix.Minor(stat.Rdev))
	class, err := os.Readlink(filepath.Join(cmp.Or(d.sysfs, "/sys"), "dev", "char", number, "subsystem"))
	return err == nil && filepath.Base(class) == "tpmrm"
}

// rootCause drops the path and operation that the error of open and dial repeat.
func rootCause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}
