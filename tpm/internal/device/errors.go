package device

import (
	"errors"
	"fmt"
	"os"
)

var (
	// ErrUnavailable is in every error that says: the TPM cannot be reached at this moment. The
	// next call tries again.
	ErrUnavailable = errors.New("TPM not available")

	// ErrClosed is returned by calls on a TPM that was closed.
	ErrClosed = errors.New("TPM is closed")
)

// lostError says that the transport died with a command under way: the TPM may have executed it or
// not.
type lostError struct {
	device string
	cause  error
}

func (e *lostError) Error() string {
	if errors.Is(e.cause, os.ErrDeadlineExceeded) {
		return fmt.Sprintf("TPM %s did not answer in time; the connection was dropped and is opened anew on next use", e.device)
	}
	return fmt.Sprintf("TPM %s: connection lost: %v", e.device, e.cause)
}

func (e *lostError) Unwrap() []error { return []error{ErrUnavailable, e.cause} }

// Repeatable reports whether an idempotent sequence of commands should be tried a second time: the
// transport died under it, and not by being slow, which a second try would only double.
func Repeatable(err error) bool {
	if err == nil {
		return false
	}
	var lost *lostError
	return errors.As(err, &lost) && !errors.Is(lost.cause, os.ErrDeadlineExceeded)
}
