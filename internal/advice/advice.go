package advice

import (
	"errors"
	"fmt"
)

// UsageError marks what the person who typed a command can mend.
type UsageError struct{ Err error }

func (e UsageError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e UsageError) Unwrap() error { return e.Err }

// Usagef formats a [UsageError].
func Usagef(format string, args ...any) error { return UsageError{fmt.Errorf(format, args...)} }

// hintedError says what to do next.
type hintedError struct {
	error
	hint string
}

func (e hintedError) Unwrap() error { return e.error }

// Hint says what to do next.
func (e hintedError) Hint() string { return e.hint }

// Hint adds what to do next to an error, unless it says so already.
func Hint(err error, format string, args ...any) error {
	if _, has := errors.AsType[hintedError](err); err == nil || has {
		return err
	}
	return hintedError{err, fmt.Sprintf(format, args...)}
}

// Of returns what an error says is to be done next.
func Of(err error) (hint string, ok bool) {
	h, ok := errors.AsType[hintedError](err)
	return h.hint, ok
}
