// Command escapes tries, from inside the agent's sandbox, what the sandbox is there to refuse, and
// prints a table. It stands in the place of the agent's program: test/e2e/escapes.sh gives it the
// agent's unit.
//
// Usage: escapes [-unreachable ADDRESS]... [-needed ADDRESS]... STATE_DIR
//
// It ends with 1 if anything was not refused, and with 2 if something that the agent needs was: a
// sandbox that refuses everything proves nothing.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
)

// attempt is something that must be refused, or, of controls, must work.
type attempt struct {
	group, name string
	try         func(env) error
}

// env is what attempts need to know.
type env struct {
	state     string   // the agent's state directory
	addresses []string // that must not be reached
	needed    []string // that must be
}

// errAbsent says that there is nothing on this machine that could be tried.
var errAbsent = errors.New("not on this machine")

func main() {
	var e env
	flag.Func("unreachable", "an address, as in 192.0.2.9:80, that must not be reached", func(address string) error {
		e.addresses = append(e.addresses, address)
		return nil
	})
	flag.Func("needed", "an address that must be reached", func(address string) error {
		e.needed = append(e.needed, address)
		return nil
	})
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: escapes [-unreachable ADDRESS]... [-needed ADDRESS]... STATE_DIR")
		os.Exit(2)
	}
	if os.Geteuid() == 0 {
		fmt.Fprintln(os.Stderr, "escapes: not as root: without the sandbox, some of it would work")
		os.Exit(2)
	}
	e.state = flag.Arg(0)
	code, err := report(os.Stdout, e)
	if err != nil {
		fmt.Fprintln(os.Stderr, "escapes:", err)
		os.Exit(2)
	}
	os.Exit(code)
}

// report tries everything and prints a row for each attempt.
func report(out io.Writer, e env) (code int, err error) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, a := range attempts() {
		err := a.try(e)
		verdict := "refused"
		switch {
		case errors.Is(err, errAbsent):
			verdict = "not tried"
		case err == nil:
			verdict, code = "NOT REFUSED", 1
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", a.group, a.name, verdict, cause(err))
	}
	for _, a := range controls() {
		err := a.try(e)
		verdict := "works"
		switch {
		case errors.Is(err, errAbsent):
			verdict = "not tried"
		case err != nil:
			verdict, code = "DOES NOT WORK", 2
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", a.group, a.name, verdict, cause(err))
	}
	return code, w.Flush()
}

func cause(err error) string {
	if err == nil || errors.Is(err, errAbsent) {
		return ""
	}
	text := err.Error()
	if i := strings.LastIndex(text, ": "); i >= 0 {
		text = text[i+len(": "):]
	}
	return text
}
