package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/errinfo"
	"github.com/keyagent/keyagent/internal/keyring"
)

// Exit codes; part of the command line's contract.
const (
	exitDone         = 0
	exitFailed       = 1
	exitUsage        = 2
	exitRefused      = 3
	exitNotReachable = 4
)

// usageError marks an error in the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// configError marks a configuration that cannot be used.
type configError struct{ error }

func (e configError) Unwrap() error { return e.error }

// referenceError is for a configuration that can be read, and refers to something that cannot be
// used.
type referenceError struct{ error }

func (e referenceError) Unwrap() error { return e.error }

// exit prints a command's error and what to do about it, and returns the exit code.
func (a *app) exit(err error, cmd *cobra.Command) int {
	if err == nil {
		return exitDone
	}
	if a.json {
		return a.exitJSON(err, cmd)
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintf(a.err, "keyagent: error: %s\n", printable(line))
	}
	if e, ok := errors.AsType[*client.Error](err); ok {
		a.printProblem(e.Problem)
	}
	if hint := a.hintFor(err, cmd); hint != "" {
		fmt.Fprintf(a.err, "keyagent: hint: %s\n", printableLines(hint))
	}
	return exitCode(err)
}

// printProblem prints what the agent says besides its message.
func (a *app) printProblem(p wire.Problem) {
	if p.Claims != "" {
		fmt.Fprintf(a.err, "keyagent: claims: %s\n", printable(p.Claims))
	}
	if p.RetryAfter > 0 {
		fmt.Fprintf(a.err, "keyagent: retry after: %d s\n", p.RetryAfter)
	}
	if p.RequestID != "" {
		fmt.Fprintf(a.err, "keyagent: request: %s (in the agent's audit and log)\n", printable(p.RequestID))
	}
}

// errorReport is what a command that was asked for JSON writes to standard error when it fails, on
// one line. Standard output has its result only. It is part of the command line's contract, and
// described in docs/cli.md.
type errorReport struct {
	// Code is a code of the agent's API (agentapi/wire/openapi.yaml) if the agent has answered,
	// else one of codes.
	Code     string `json:"code"`
	Message  string `json:"message"` // may have several lines
	Hint     string `json:"hint,omitempty"`
	ExitCode int    `json:"exit_code"`

	// What the agent says besides.
	Status     int    `json:"status,omitempty"` // HTTP
	Field      string `json:"field,omitempty"`
	Identity   string `json:"identity,omitempty"`
	Claims     string `json:"claims,omitempty"`
	RetryAfter int64  `json:"retry_after,omitempty"` // seconds
	RequestID  string `json:"request_id,omitempty"`  // in the agent's audit and log
}

// The codes of errors that the agent has not answered with.
const (
	codeFailed        = "failed"
	codeUsage         = "usage"
	codeConfiguration = "configuration"
	codeNotReachable  = "not_reachable"
	codeInterrupted   = "interrupted"
)

// exitJSON is exit for a command that was asked for JSON.
func (a *app) exitJSON(err error, cmd *cobra.Command) int {
	report := errorReport{Code: codeFailed, Message: err.Error(), Hint: a.hintFor(err, cmd), ExitCode: exitCode(err)}
	answer, answered := errors.AsType[*client.Error](err)
	switch {
	case answered:
		p := answer.Problem
		report.Code, report.Status = cmp.Or(string(p.Code), codeFailed), answer.Status
		report.Field, report.Identity, report.Claims, report.RetryAfter = p.Field, p.Identity, p.Claims, p.RetryAfter
		report.RequestID = p.RequestID
	case isConfigError(err):
		report.Code = codeConfiguration
	case report.ExitCode == exitUsage:
		report.Code = codeUsage
	case report.ExitCode == exitNotReachable:
		report.Code = codeNotReachable
	}
	a.writeError(report)
	return report.ExitCode
}

func (a *app) writeError(report errorReport) {
	_ = json.NewEncoder(visible{a.err}).Encode(map[string]errorReport{"error": report}) // there is no other place for it
}

// wantsJSON reports whether a command line asks for JSON, also one that is wrong in another place.
func wantsJSON(args []string) bool {
	for i, arg := range ownArgs(args) {
		switch arg {
		case "--":
			return false
		case "--json", "--json=true", "--output=json":
			return true
		case "--output":
			if i+1 < len(args) && args[i+1] == "json" {
				return true
			}
		}
	}
	return false
}

func exitCode(err error) int {
	_, badConfig := errors.AsType[configError](err)
	_, badUsage := errors.AsType[usageError](err)
	_, badRequest := errors.AsType[keyring.RequestError](err)
	program, notStarted := errors.AsType[programError](err)
	switch {
	case notStarted:
		return program.code
	case badConfig, badUsage, badRequest, isBadRequest(err):
		return exitUsage
	case errors.Is(err, client.ErrRefused):
		return exitRefused
	case errors.Is(err, client.ErrNotReachable):
		return exitNotReachable
	}
	return exitFailed
}

// isBadRequest reports whether the agent found fault with a parameter.
func isBadRequest(err error) bool {
	e, ok := errors.AsType[*client.Error](err)
	return ok && e.Status == http.StatusBadRequest
}

func (a *app) hintFor(err error, cmd *cobra.Command) string {
	if e, ok := errors.AsType[*client.Error](err); ok {
		return e.Problem.Hint
	}
	if _, ok := errors.AsType[*config.Error](err); ok {
		return "correct the file, then run: " + a.checkCommand(cmd)
	}
	if _, ok := errors.AsType[referenceError](err); ok {
		return "correct the file or what it names, then run: " + a.checkCommand(cmd)
	}
	if todo, ok := advice.Of(err); ok {
		return todo.Text(words{})
	}
	var hinted errinfo.Hinter
	_, badUsage := errors.AsType[usageError](err)
	_, badRequest := errors.AsType[keyring.RequestError](err)
	switch {
	case errors.As(err, &hinted):
		return hinted.Hint()
	case badUsage, badRequest:
		return "see " + cmd.CommandPath() + " --help"
	case errors.Is(err, fs.ErrNotExist) && isConfigError(err):
		return "name the file with --config FILE or KEYAGENT_CONFIG"
	case errors.Is(err, client.ErrNotReachable):
		return "see that the agent runs on this machine, or name its socket with --socket PATH or KEYAGENT_SOCKET; whoever administers the agent starts it (keyagent serve)"
	}
	return ""
}

// checkCommand is the command that checks the configuration that cmd has read. Of the environment,
// the next command knows, too.
func (a *app) checkCommand(cmd *cobra.Command) string {
	if !cmd.Flags().Changed("config") {
		return "keyagent config check"
	}
	return "keyagent config check --config " + a.configPath
}

func isConfigError(err error) bool {
	_, ok := errors.AsType[configError](err)
	return ok
}
