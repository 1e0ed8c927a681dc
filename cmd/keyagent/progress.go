package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// progressStep is how often the line on the terminal is renewed.
const progressStep = time.Second

// during runs do, and on a terminal shows meanwhile what it waits for: the command's own words, and
// the longest entry of the board of waits. What takes less than a step goes without a word.
func (a *app) during(ctx context.Context, what string, do func() error) error {
	if !a.isTerminal() {
		return do()
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.tell(ctx, what)
	}()
	err := do()
	cancel()
	<-ended
	return err
}

// awaited is during for a function that returns a value.
func awaited[T any](ctx context.Context, a *app, what string, do func() (T, error)) (result T, err error) {
	err = a.during(ctx, what, func() (err error) {
		result, err = do()
		return err
	})
	return result, err
}

func (a *app) tell(ctx context.Context, what string) {
	tick := time.NewTicker(progressStep)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			if n > 1 {
				fmt.Fprint(a.err, "\r\033[K") // ECMA-48: erase the line
			}
			return
		case <-tick.C:
			fmt.Fprintf(a.err, "\r\033[K%s ... %ds%s", what, n, a.waitsFor())
		}
	}
}

// waitsFor names the operation that this process has waited for the longest; "" if that is not
// known.
func (a *app) waitsFor() string {
	now := a.waits.Now()
	if len(now) == 0 {
		return ""
	}
	return ", waiting for " + now[0].What
}

// isTerminal says whether messages go to a person.
func (a *app) isTerminal() bool { return isTerminal(a.err) }

// isTerminal says whether a stream is a terminal, as isatty(3) does: /dev/null is a character
// device, too.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS) // #nosec G115 -- a descriptor fits
	return err == nil
}
