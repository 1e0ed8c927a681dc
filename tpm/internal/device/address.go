package device

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

// DefaultDevice is the kernel's resource manager: each open of it is a space of its own, whose
// objects and sessions are flushed when it closes. The device without rm in its name, /dev/tpm0, is
// the bare TPM.
const DefaultDevice = "/dev/tpmrm0"

// dialTimeout bounds connecting to a socket. The TPM's own socket is on this machine.
const dialTimeout = 10 * time.Second

// Address says where a TPM is.
type Address struct {
	Network string // "unix" or "tcp"; empty: a character device
	Path    string // of the device or the Unix socket, or HOST:PORT
	Sysfs   string // where the kernel describes its devices; empty means /sys
}

func (d Address) String() string {
	if d.Network == "" {
		return d.Path
	}
	return d.Network + ":" + d.Path
}

// ParseAddress reads a device setting: "device:/dev/tpmrm0" or just "/dev/tpmrm0", "unix:/path",
// "tcp:host:port". Empty means [DefaultDevice].
func ParseAddress(setting string) (Address, error) {
	if setting == "" {
		setting = DefaultDevice
	}
	if strings.HasPrefix(setting, "/") {
		return Address{Path: setting}, nil
	}
	scheme, address, _ := strings.Cut(setting, ":")
	if address == "" {
		scheme = ""
	}
	switch scheme {
	case "device":
		return Address{Path: address}, nil
	case "unix":
		return Address{Network: "unix", Path: address}, nil
	case "tcp":
		if _, _, err := net.SplitHostPort(address); err != nil {
			return Address{}, fmt.Errorf("TPM device %q: %w: write tcp:HOST:PORT", setting, err)
		}
		return Address{Network: "tcp", Path: address}, nil
	}
	return Address{}, fmt.Errorf("TPM device %q: write device:/dev/tpmrm0, unix:/path/to/socket or tcp:HOST:PORT", setting)
}

// Stream carries raw TPM commands and responses, nothing around them.
type Stream interface {
	io.ReadWriteCloser
	// SetDeadline returns os.ErrNoDeadline where there is none to set.
	SetDeadline(t time.Time) error
}

// open connects. Its error is ErrUnavailable and says what to do.
func (d Address) open(ctx context.Context) (Stream, error) {
	s, err := d.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: opening %s: %w: %s", ErrUnavailable, d, rootCause(err), openHint(d, err))
	}
	return s, nil
}

func (d Address) dial(ctx context.Context) (Stream, error) {
	if d.Network == "" {
		return openCharDevice(d.Path)
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	return dialer.DialContext(ctx, d.Network, d.Path)
}

// openCharDevice opens a TPM character device for blocking reads and writes.
//
// Not os.OpenFile, which would put the descriptor into O_NONBLOCK and into the runtime's poller. On
// a TPM device that is wrong twice. A read before the answer is ready returns 0 there, not EAGAIN,
// and Go takes 0 for the end of the file. And the driver's poll waits for the command under way, so
// that the runtime's poller, and with it every connection of the process, would stand still
// meanwhile. A blocked thread is harmless, and the kernel ends every command in its time.
func openCharDevice(path string) (Stream, error) {
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

// managed reports whether an open Stream goes to the kernel's resource manager, which alone gives
// each open an empty space. It goes by the device's class in the kernel, because anybody can give a
// device another name, as containers do. If the class is not known, it reports false: then loaded
// objects are looked for, and not found.
func (d Address) managed(s Stream) bool {
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
	class, err := os.Readlink(filepath.Join(cmp.Or(d.Sysfs, "/sys"), "dev", "char", number, "subsystem"))
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

// openHint tells an operator what to do about an error of opening the device.
func openHint(d Address, err error) string {
	switch {
	case d.Network != "":
		return fmt.Sprintf("check that the TPM emulator behind %s runs and that this user may connect", d)
	case errors.Is(err, os.ErrNotExist):
		return "this machine shows no TPM: check that the VM has a vTPM and that the kernel's tpm driver is loaded (ls -l /dev/tpm*)"
	case errors.Is(err, os.ErrPermission):
		return "this user may not open it: add it to the group of the device, usually tss (SupplementaryGroups=tss)"
	case errors.Is(err, syscall.EBUSY):
		return "another program holds it: use the resource manager's device, /dev/tpmrm0"
	}
	return "check the tpm setting and the kernel log"
}
