package tpm_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// This file is about character devices, which are of two kinds: the kernel's resource manager,
// where each open begins with an empty space, and the bare TPM, which keeps what it has.

// rawDevice is a character device before a TPM. What goes over it is seen by wire; the next command
// with the code in nonsense is not executed and gets an answer that makes no sense.
type rawDevice struct {
	path     string
	machine  *tpmtest.SoftTPM
	wire     traffic
	nonsense atomic.Uint32
}

func newRawDevice(t *testing.T) *rawDevice {
	t.Helper()
	master, path := terminal(t)
	held, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0) // without a client, a terminal hangs up
	if err != nil {
		t.Fatal(err)
	}
	d := &rawDevice{path: path, machine: tpmtest.Swtpm(t)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.serve(master)
	}()
	t.Cleanup(func() { _, _ = held.Close(), master.Close(); <-done })
	return d
}

func (d *rawDevice) serve(master *os.File) {
	backend, err := net.Dial("unix", strings.TrimPrefix(d.machine.Device(), "unix:"))
	if err != nil {
		return
	}
	defer backend.Close()
	handle := d.wire.under(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		if d.nonsense.CompareAndSwap(uint32(codeOf(command)), 0) {
			return []byte("0123456789"), nil
		}
		return forward(command)
	})
	buf := make([]byte, 4096)
	for {
		n, err := master.Read(buf)
		if err != nil {
			return
		}
		rsp, err := handle(buf[:n], func(command []byte) ([]byte, error) {
			if _, err := backend.Write(command); err != nil {
				return nil, err
			}
			rsp := make([]byte, 4096)
			n, err := backend.Read(rsp)
			return rsp[:n], err
		})
		if err != nil {
			return
		}
		if _, err := master.Write(rsp); err != nil {
			return
		}
	}
}

// sysfs describes a character device as the kernel does: its class, by its number.
func sysfs(t *testing.T, path, class string) string {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	dir := filepath.Join(root, "dev", "char", fmt.Sprintf("%d:%d", unix.Major(stat.Rdev), unix.Minor(stat.Rdev)))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../../class/"+class, filepath.Join(dir, "subsystem")); err != nil {
		t.Fatal(err)
	}
	return root
}

// After each broken connection the key is found where it was, the session is used on, and another
// program's object is left alone.
func TestABareDeviceKeepsLoadedObjects(t *testing.T) {
	t.Parallel()
	d := newRawDevice(t)
	for name, open := range map[string]func() (*tpm.TPM, error){
		"a device that the kernel says nothing about": func() (*tpm.TPM, error) {
			return tpm.Open(t.Context(), tpm.Config{Device: "device:" + d.path})
		},
		"of class tpm": func() (*tpm.TPM, error) {
			return tpm.OpenDescribed(t.Context(), d.path, sysfs(t, d.path, "tpm"), tpm.Config{})
		},
		"with the resource manager's name": func() (*tpm.TPM, error) {
			link := filepath.Join(t.TempDir(), "tpmrm0")
			if err := os.Symlink(d.path, link); err != nil {
				t.Fatal(err)
			}
			return tpm.OpenDescribed(t.Context(), link, sysfs(t, d.path, "tpm"), tpm.Config{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			on, err := open()
			if err != nil {
				t.Fatal(err)
			}
			defer on.Close()
			foreign := stay(t, on, ecdsaTemplate())
			key := newKey(t, on)
			for range 4 { // more often than there are slots
				checkSigns(t, key)
				loads := d.wire.count(tpm2.TPMCCLoad)
				d.nonsense.Store(uint32(tpm2.TPMCCGetRandom))
				err := on.Do(t.Context(), func(c transport.TPM) error { _, err := random(c, 4); return err })
				fails(t, err, tpm.ErrUnavailable)
				checkSigns(t, key)
				if n := d.wire.count(tpm2.TPMCCLoad); n != loads {
					t.Errorf("the key was loaded %d times more", n-loads)
				}
			}
			if list := transients(t, on); len(list) != 2 || !slices.Contains(list, foreign) {
				t.Errorf("%x are loaded, want the key and %x of another program", list, foreign)
			}
			if list := present(t, on, loadedSessions); len(list) != 1 {
				t.Errorf("sessions %x are loaded", list)
			}
			_ = key.Close() // always nil
			if list := transients(t, on); !slices.Equal(list, []tpm2.TPMHandle{foreign}) {
				t.Errorf("%x are loaded, want %x of another program", list, foreign)
			}
			do(t, on, func(c transport.TPM) error { flush(t, c, foreign); return nil })
			if err := on.Close(); err != nil {
				t.Fatal(err)
			}
			again, err := open()
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			checkLoaded(t, again, 0, 0)
		})
	}
}

// A flush that is lost with its connection is done over the next, on a bare device as on a socket.
func TestABareDeviceIsFlushedOverTheNextConnection(t *testing.T) {
	t.Parallel()
	d := newRawDevice(t)
	on := tpmtest.Connect(t, "device:"+d.path)
	for range 4 {
		key := newKey(t, on)
		checkSigns(t, key)
		d.nonsense.Store(uint32(tpm2.TPMCCFlushContext))
		_ = key.Close() // always nil
		checkLoaded(t, on, 0, 1)
	}
}

// Each open of the kernel's resource manager begins with an empty space: nothing that was loaded
// over the last one is looked for or flushed, whatever is at these numbers now.
func TestTheResourceManagersDeviceBeginsEmpty(t *testing.T) {
	t.Parallel()
	d := newRawDevice(t)
	on, err := tpm.OpenDescribed(t.Context(), d.path, sysfs(t, d.path, "tpmrm"), tpm.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer on.Close()
	key := newKey(t, on)
	checkSigns(t, key)
	kept := append(transients(t, on), present(t, on, loadedSessions)...)
	flushes, questions := d.wire.count(tpm2.TPMCCFlushContext), d.wire.count(tpm2.TPMCCReadPublic)
	d.nonsense.Store(uint32(tpm2.TPMCCGetRandom))
	err = on.Do(t.Context(), func(c transport.TPM) error { _, err := random(c, 4); return err })
	fails(t, err, tpm.ErrUnavailable)
	_ = key.Close() // always nil
	if now := append(transients(t, on), present(t, on, loadedSessions)...); !slices.Equal(now, kept) {
		t.Errorf("%x are loaded, want %x, which the resource manager would have freed", now, kept)
	}
	if f, q := d.wire.count(tpm2.TPMCCFlushContext)-flushes, d.wire.count(tpm2.TPMCCReadPublic)-questions; f+q != 0 {
		t.Errorf("%d flushes and %d questions went over the new connection", f, q)
	}
	if n := d.wire.count(tpm2.TPMCCReadClock); n != 0 {
		t.Errorf("the clock was read %d times", n)
	}
}

// While the connection lasts, residents that are given up are flushed there as everywhere.
func TestTheResourceManagersDeviceIsFlushedToo(t *testing.T) {
	t.Parallel()
	d := newRawDevice(t)
	on, err := tpm.OpenDescribed(t.Context(), d.path, sysfs(t, d.path, "tpmrm"), tpm.Config{PlainSessions: true})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var keys []*tpm.Key
		for range 4 { // more than there are slots
			keys = append(keys, newKey(t, on))
		}
		for _, k := range append(keys, keys...) {
			checkSigns(t, k)
		}
		for _, k := range keys {
			_ = k.Close() // always nil
		}
		checkLoaded(t, on, 0, 0)
	}
	newKey(t, on)
	if err := on.Close(); err != nil {
		t.Fatal(err)
	}
	checkLoaded(t, tpmtest.Connect(t, "device:"+d.path), 0, 0)
}
