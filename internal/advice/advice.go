package advice

import (
	"errors"
	"fmt"
)

// Advice is a sentence, or several, with commands on lines of their own where they are to be
// pasted. The zero value is none.
type Advice struct {
	format string
	args   []any
}

// New makes advice of a format, as [fmt.Sprintf] takes it. Its arguments may be of the types
// [Command] and [Flag], for %s.
func New(format string, args ...any) Advice { return Advice{format, args} }

// IsZero reports whether there is nothing to do.
func (a Advice) IsZero() bool { return a.format == "" }

// Text is the advice in a program's words; nil words name commands by what they do.
func (a Advice) Text(w Words) string {
	if a.IsZero() {
		return ""
	}
	if w == nil {
		w = plain{}
	}
	args := make([]any, len(a.args))
	for i, arg := range a.args {
		switch arg := arg.(type) {
		case Command:
			args[i] = w.Command(arg)
		case Flag:
			args[i] = w.Flag(arg)
		case Advice:
			args[i] = arg.Text(w)
		default:
			args[i] = arg
		}
	}
	return fmt.Sprintf(a.format, args...)
}

// Lines is the advice with lines after it that are to be pasted as they are.
func (a Advice) Lines(lines []string) Advice {
	for _, line := range lines {
		a = New("%s\n%s", a, line)
	}
	return a
}

// advised is an error with what to do about it.
type advised struct {
	error
	advice Advice
}

func (e advised) Unwrap() error { return e.error }

// To adds what to do next to an error, unless it says so already. No error stays none.
func To(err error, format string, args ...any) error { return Add(err, New(format, args...)) }

// Add is [To] for advice that was made before.
func Add(err error, a Advice) error {
	if _, has := errors.AsType[advised](err); err == nil || has || a.IsZero() {
		return err
	}
	return advised{err, a}
}

// Of returns the advice that an error has.
func Of(err error) (Advice, bool) {
	e, ok := errors.AsType[advised](err)
	return e.advice, ok
}

// worded is an error whose advice is in a program's words.
type worded struct {
	error
	hint string
}

func (e worded) Unwrap() error { return e.error }

// Hint says what to do next.
func (e worded) Hint() string { return e.hint }

// Worded returns an error that has its advice as a method Hint, which packages know that do not
// know this one.
func Worded(err error, w Words) error {
	a, ok := Of(err)
	if !ok {
		return err
	}
	return worded{err, a.Text(w)}
}
