// Command tpmbridge lets QEMU give a machine the TPM that azuresim has: laid out as on an Azure
// Confidential VM, and driven by the machine's own kernel.
//
// To QEMU it is what swtpm is: a control socket with commands of its own, and over it a second
// connection with the TPM's. The TPM's commands are passed on as they are. When the machine starts
// or is reset, azuresim's TPM is, too: seeds and NV stay. It serves one machine, and ends with it.
// Stopped by SIGSTOP it is a TPM that does not answer. By SIGUSR1 the TPM is gone: all commands are
// answered as QEMU does when its swtpm has ended. By SIGUSR2 it is back as one that was started
// again with the state it had: seeds and NV, and nothing that was loaded.
//
// Source: swtpm's include/swtpm/tpm_ioctl.h, and the order in which QEMU 7.2 sends
// (backends/tpm/tpm_emulator.c).
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Commands of the control socket, and what a TPM 2.0 for QEMU must be capable of.
const (
	cmdGetCapability       = 0x01
	cmdInit                = 0x02
	cmdShutdown            = 0x03
	cmdGetTPMEstablished   = 0x04
	cmdSetLocality         = 0x05
	cmdCancel              = 0x09
	cmdResetTPMEstablished = 0x0b
	cmdStop                = 0x0e
	cmdSetDataFD           = 0x10
	cmdSetBufferSize       = 0x11

	capabilities = 0x1 | 0x2 | 0x4 | 0x8 | 0x20 | 0x80 | 0x400 | 0x1000 | 0x2000
)

const (
	success    = 0
	badOrdinal = 0x0a // TPM_BAD_ORDINAL

	bufferSize = 3968 // of QEMU's tpm-crb
	maxMessage = 4096
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: tpmbridge CONTROL-SOCKET TPM-SOCKET AZURESIM-CONTROL-URL")
		os.Exit(2)
	}
	b := &bridge{tpmSocket: os.Args[2], simulator: os.Args[3], signals: make(chan os.Signal, 1)}
	signal.Notify(b.signals, syscall.SIGUSR1, syscall.SIGUSR2)
	if err := b.serve(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintf(os.Stderr, "tpmbridge: %v\n", err)
		os.Exit(1)
	}
}

// A bridge is between one machine and one TPM.
type bridge struct {
	tpmSocket, simulator string
	data                 net.Conn // with the TPM's commands, from QEMU
	resets               chan struct{}
	signals              chan os.Signal
}

// gone is what QEMU answers in the place of a TPM whose connection broke: TPM_FAIL, in the format
// of a TPM 1.2 (tpm_util_write_fatal_error_response).
var gone = []byte{0x00, 0xc4, 0, 0, 0, 10, 0, 0, 0, 9}

// serve takes the one connection of the control socket, and ends with it.
func (b *bridge) serve(ctx context.Context, path string) error {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		return err
	}
	conn, err := listener.AcceptUnix()
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = listener.Close()
	b.resets = make(chan struct{})
	for {
		cmd, body, err := b.receive(conn)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := conn.Write(b.answer(ctx, cmd, body)); err != nil {
			return err
		}
	}
}

// receive reads one command. QEMU sends each in one piece, and waits for the answer.
func (b *bridge) receive(conn *net.UnixConn) (cmd uint32, body []byte, err error) {
	message, rights := make([]byte, maxMessage), make([]byte, syscall.CmsgSpace(4))
	n, nr, _, _, err := conn.ReadMsgUnix(message, rights)
	switch {
	case err != nil:
		return 0, nil, err
	case n == 0:
		return 0, nil, io.EOF
	case n < 4:
		return 0, nil, errors.New("a control command of less than four bytes")
	}
	if nr > 0 {
		if b.data, err = passedConn(rights[:nr]); err != nil {
			return 0, nil, err
		}
	}
	return binary.BigEndian.Uint32(message), message[4:n], nil
}

func passedConn(rights []byte) (net.Conn, error) {
	messages, err := syscall.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("passed rights: %d messages, %w", len(messages), err)
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("passed rights: %d descriptors, %w", len(fds), err)
	}
	file := os.NewFile(uintptr(fds[0]), "data")
	defer file.Close()
	return net.FileConn(file)
}

func (b *bridge) answer(ctx context.Context, cmd uint32, body []byte) []byte {
	switch cmd {
	case cmdGetCapability:
		return binary.BigEndian.AppendUint64(nil, capabilities)
	case cmdInit:
		return result(b.reset(ctx))
	case cmdSetDataFD:
		go b.passOn(ctx)
		return result(nil)
	case cmdGetTPMEstablished:
		return append(result(nil), 0, 0, 0, 0)
	case cmdSetBufferSize:
		size := uint32(bufferSize)
		if len(body) >= 4 && binary.BigEndian.Uint32(body) != 0 {
			size = binary.BigEndian.Uint32(body)
		}
		answer := result(nil)
		for _, v := range []uint32{size, size, maxMessage} {
			answer = binary.BigEndian.AppendUint32(answer, v)
		}
		return answer
	case cmdShutdown, cmdSetLocality, cmdCancel, cmdResetTPMEstablished, cmdStop:
		return result(nil)
	}
	return binary.BigEndian.AppendUint32(nil, badOrdinal)
}

func result(err error) []byte {
	if err != nil {
		fmt.Fprintf(os.Stderr, "tpmbridge: %v\n", err)
		return binary.BigEndian.AppendUint32(nil, 1)
	}
	return binary.BigEndian.AppendUint32(nil, success)
}

// reset is the machine's power: seeds and NV of the TPM stay.
func (b *bridge) reset(ctx context.Context) error {
	select {
	case b.resets <- struct{}{}: // whoever has a connection to the TPM makes a new one
	case <-time.After(time.Second):
	}
	return b.restart(ctx)
}

// restart has the TPM forget what was loaded.
func (b *bridge) restart(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.simulator+"/tpm/reset", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return fmt.Errorf("resetting the TPM: %s", resp.Status)
	}
	return nil
}

// passOn passes the TPM's commands on, until QEMU has no more.
func (b *bridge) passOn(ctx context.Context) {
	commands := make(chan []byte)
	go func() {
		defer close(commands)
		for {
			command, err := readFrame(b.data)
			if err != nil {
				return
			}
			commands <- command
		}
	}()
	var tpm net.Conn
	away := false
	for {
		select {
		case <-b.resets:
			tpm, away = disconnect(tpm), false
		case s := <-b.signals:
			if away = s == syscall.SIGUSR1; !away {
				result(b.restart(ctx))
			}
			tpm = disconnect(tpm)
		case command, more := <-commands:
			if !more {
				return
			}
			answer := gone
			if !away {
				if tpm, answer = b.exchange(ctx, tpm, command); answer == nil {
					return
				}
			}
			if _, err := b.data.Write(answer); err != nil {
				return
			}
		}
	}
}

func disconnect(tpm net.Conn) net.Conn {
	if tpm != nil {
		_ = tpm.Close()
	}
	return nil
}

// exchange sends a command over the connection, or over a new one.
func (b *bridge) exchange(ctx context.Context, tpm net.Conn, command []byte) (net.Conn, []byte) {
	if tpm == nil {
		var err error
		if tpm, err = (&net.Dialer{}).DialContext(ctx, "unix", b.tpmSocket); err != nil {
			fmt.Fprintf(os.Stderr, "tpmbridge: %v\n", err)
			return nil, nil
		}
	}
	if _, err := tpm.Write(command); err != nil {
		fmt.Fprintf(os.Stderr, "tpmbridge: %v\n", err)
		return tpm, nil
	}
	answer, err := readFrame(tpm)
	if err != nil {
		fmt.Fprintf(os.Stderr, "tpmbridge: %v\n", err)
		return tpm, nil
	}
	return tpm, answer
}

// readFrame reads a command or an answer: tag, size of the whole, code (TPM 2.0 Part 1, 18).
func readFrame(r io.Reader) ([]byte, error) {
	header := make([]byte, 10)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[2:])
	if size < 10 || size > maxMessage {
		return nil, fmt.Errorf("a frame of %d bytes", size)
	}
	frame := make([]byte, size)
	copy(frame, header)
	_, err := io.ReadFull(r, frame[10:])
	return frame, err
}
