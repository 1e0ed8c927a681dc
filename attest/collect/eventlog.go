package collect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/eventlog"
)

// SecurityFSLog is where the kernel shows the log of what the firmware measured. Only root can read
// it. It says that it is empty, and is to be read to its end.
const SecurityFSLog = "/sys/kernel/security/tpm0/binary_bios_measurements"

// maxLogFile is how many bytes are read at most: the buffer that holds a log is larger than the
// log.
const maxLogFile = 1 << 20

// addEventLog adds the log if there is one. Evidence without a log is evidence; a verifier who
// wants one says so.
func (c *Collector) addEventLog(ctx context.Context, e *attest.Evidence) {
	log, err := readEventLog(c.cfg.EventLogFile)
	switch {
	case errors.Is(err, fs.ErrPermission): // as for any agent that nobody has given the log
		c.cfg.Logger.InfoContext(ctx, "the evidence has no event log: this user may not read it", "file", c.cfg.EventLogFile)
	case err != nil:
		c.cfg.Logger.WarnContext(ctx, "the evidence has no event log", "file", c.cfg.EventLogFile, "cause", err)
	case log == nil:
		c.cfg.Logger.InfoContext(ctx, "the machine has no event log", "file", c.cfg.EventLogFile)
	}
	e.EventLog = log
}

// readEventLog reads a log without its padding; nil without an error if there is none.
func readEventLog(file string) ([]byte, error) {
	// Without O_NONBLOCK, a FIFO in the file's place would be waited for.
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxLogFile+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxLogFile {
		return nil, fmt.Errorf("it has more than %d bytes", maxLogFile)
	}
	log, _, err := eventlog.Trim(raw)
	return log, err
}

// withoutFalseLog verifies the evidence, and again without the log if that does not explain the
// quoted registers: firmware and kernel have their faults, and the rest is worth as much without
// it.
func (c *Collector) withoutFalseLog(ctx context.Context, e *attest.Evidence, verify func() *attest.Result) *attest.Result {
	result := verify()
	for _, check := range result.Checks {
		if check.Name == attest.CheckEventLogReplay && check.Status == attest.Fail {
			c.cfg.Logger.WarnContext(ctx, "the evidence has no event log: it is not that of this boot", "file", c.cfg.EventLogFile, "cause", check.Reason)
			e.EventLog = nil
			return verify()
		}
	}
	return result
}
