package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/keyagent/keyagent/internal/setup"
)

// questions asks for what the command line did not say, if there is somebody to ask.
type questions struct {
	in     *bufio.Reader // nil: nobody can be asked
	out    io.Writer
	echoes bool // a terminal shows the answers, and their line breaks
}

// questions are asked on standard error, and answered on standard input, which need not be a
// terminal.
func (a *app) questions(f setupFlags) *questions {
	q := &questions{out: a.err}
	if !f.yes && !f.dryRun && !f.print && !f.json {
		q.in, q.echoes = bufio.NewReader(a.in), isTerminal(a.in)
	}
	return q
}

// ask returns the answer, "" if there is none.
func (q *questions) ask(ctx context.Context, question string) string {
	if q.in == nil {
		return ""
	}
	fmt.Fprintf(q.out, "%s ", question)
	answer, err := readLine(ctx, q.in)
	if err != nil || !q.echoes {
		fmt.Fprintln(q.out)
	}
	return answer
}

// missing asks for the choices that were not made.
func (q *questions) missing(ctx context.Context, c *setup.Choices) error {
	if len(c.Missing()) == 0 || q.in == nil {
		return nil // Propose reports the missing choices
	}
	if c.Application == "" && c.Managed.ClientID == "" && c.Managed.ObjectID == "" && c.Managed.ResourceID == "" {
		c.Managed.ClientID = q.ask(ctx, "Which managed identity? Nothing for the VM's own, or the client id of a user-assigned one:")
	}
	if len(c.Users)+len(c.Groups)+len(c.Units) == 0 {
		who := q.ask(ctx, "Who may have tokens? Users (www-data), groups (@devs) and services (web.service), with spaces between:")
		for name := range strings.FieldsSeq(strings.ReplaceAll(who, ",", " ")) {
			addCaller(c, name)
		}
	}
	if len(c.Resources) == 0 {
		c.Resources = strings.Fields(q.ask(ctx, "Tokens for what? As in https://vault.azure.net, with spaces between:"))
	}
	return ctx.Err()
}

func addCaller(c *setup.Choices, name string) {
	if group, ok := strings.CutPrefix(name, "@"); ok {
		c.Groups = append(c.Groups, group)
		return
	}
	if strings.HasSuffix(name, ".service") {
		c.Units = append(c.Units, name)
		return
	}
	c.Users = append(c.Users, name)
}

// unbound asks whether to go without binding certificates.
func (q *questions) unbound(ctx context.Context, err *setup.UnboundError) bool {
	if q.in == nil {
		return false
	}
	fmt.Fprintln(q.out, printable(err.Error()))
	return isYes(q.ask(ctx, "Take tokens that are not bound until it has them? [y/N]"))
}

// mayWrite asks for the last word.
func (q *questions) mayWrite(ctx context.Context, f setupFlags, path string) bool {
	return f.yes || isYes(q.ask(ctx, "Write "+path+"? [y/N]"))
}

func isYes(answer string) bool {
	return strings.EqualFold(answer, "y") || strings.EqualFold(answer, "yes")
}
