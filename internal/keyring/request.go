package keyring

import "fmt"

// RequestError marks a request that cannot be carried out as it was made: files and TPM are not at
// fault, and nothing was changed.
type RequestError struct{ Err error }

func (e RequestError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e RequestError) Unwrap() error { return e.Err }

func requestf(format string, args ...any) error { return RequestError{fmt.Errorf(format, args...)} }
