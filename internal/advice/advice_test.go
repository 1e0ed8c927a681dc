package advice_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/keyagent/keyagent/internal/advice"
)

var errCause = errors.New("cause")

func TestTheFirstAdviceIsKept(t *testing.T) {
	err := advice.To(errCause, "first")
	err = advice.To(fmt.Errorf("around: %w", err), "second")
	todo, ok := advice.Of(err)
	if !ok || todo.Text(nil) != "first" || err.Error() != "around: cause" || !errors.Is(err, errCause) {
		t.Errorf("%v: %q", err, todo.Text(nil))
	}
	if err := advice.To(nil, "nothing to do"); err != nil {
		t.Errorf("advice made an error: %v", err)
	}
	if _, ok := advice.Of(advice.Add(errCause, advice.Advice{})); ok {
		t.Error("no advice passes for advice")
	}
}

// upper are the words of a program that shouts.
type upper struct{}

func (upper) Command(c advice.Command) string { return "RUN " + c.Key }
func (upper) Flag(f advice.Flag) string       { return "WITH " + string(f) }

func TestAProgramNamesItsCommands(t *testing.T) {
	inner := advice.New("%s", advice.Run(advice.RotateKey, "app", advice.Cancel))
	a := advice.New("100%%: %s, %d times, or %s", inner, 2, advice.NoAuth).Lines([]string{"date +%s"})
	for _, tt := range []struct {
		words advice.Words
		want  string
	}{
		{nil, "100%: [rotate key app, cancel], 2 times, or [no authorization value]\ndate +%s"},
		{upper{}, "100%: RUN app, 2 times, or WITH no authorization value\ndate +%s"},
	} {
		if got := a.Text(tt.words); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
	var hinted interface{ Hint() string }
	if err := advice.Worded(advice.Add(errCause, inner), upper{}); !errors.As(err, &hinted) || hinted.Hint() != "RUN app" || !errors.Is(err, errCause) {
		t.Errorf("got %v", err)
	}
	if err := advice.Worded(errCause, upper{}); err != errCause { //nolint:errorlint // the error itself
		t.Errorf("got %v", err)
	}
}
