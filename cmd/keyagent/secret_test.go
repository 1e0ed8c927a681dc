package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keyagent/keyagent/agentapi/appsecret"
)

// This file has what scripts about unmodified programs need.

// sdk asks for a token as an SDK does, and prints the answer. With "older" before the resource, it
// does so as adal.
func sdk(args []string) error {
	endpoint, header, version, name := os.Getenv("IDENTITY_ENDPOINT"), os.Getenv("IDENTITY_HEADER"), "2019-08-01", "X-IDENTITY-HEADER"
	if len(args) == 2 && args[0] == "older" {
		endpoint, header, version, name = os.Getenv("MSI_ENDPOINT"), os.Getenv("MSI_SECRET"), "2017-09-01", "Secret"
		args = args[1:]
	}
	if endpoint == "" || len(args) != 1 {
		return errors.New("usage: sdk [older] RESOURCE, with an endpoint in the environment")
	}
	query := url.Values{"api-version": {version}, "resource": {args[0]}}
	req, err := http.NewRequest(http.MethodGet, endpoint+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	req.Header.Set(name, header)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Printf("%d %s\n", resp.StatusCode, body)
	return err
}

// freePort sets a variable to a port of loopback that is free, and is not one that the kernel gives
// to clients.
func freePort(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: freeport VARIABLE")
	}
	for range 100 {
		port := strconv.Itoa(10_000 + rand.IntN(20_000))
		listener, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			continue
		}
		ts.Check(listener.Close())
		ts.Setenv(args[0], port)
		return
	}
	ts.Fatalf("there is no free port")
}

// secretOnly makes sure that the secret in the environment of the process in PIDFILE is nowhere
// else: not in the environment of another process, in no command line and in no file of the script.
// Negated, it makes sure that it is.
func secretOnly(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] secretonly PIDFILE")
	}
	environ := filepath.Join("/proc", strings.TrimSpace(ts.ReadFile(args[0])), "environ")
	secret := secretIn(ts, environ)
	var found []string
	for _, path := range append(readable(ts, environ), files(ts)...) {
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ESRCH) {
			continue // a process has ended, or is another user's
		}
		ts.Check(err)
		if strings.Contains(string(content), secret) {
			found = append(found, path)
		}
	}
	if (len(found) > 0) != neg {
		ts.Fatalf("the secret is in %q", found)
	}
}

// secrets are what tokens, assertions and secrets of programs look like: two parts of a JWT (RFC
// 7515, 7.1), or the beginning of a secret with as much as a forger would need.
var secrets = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}|` + appsecret.Prefix + `[A-Za-z0-9_-]{20,}`)

// leakless makes sure that no token, assertion or secret of a program is in a file of the script,
// nor in the environment or the command line of a process, but for the environment of that in
// PIDFILE, whose secret it is. Negated, it makes sure that there is one.
func leakless(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) > 1 {
		ts.Fatalf("usage: [!] leakless [PIDFILE]")
	}
	except := ""
	for _, file := range args {
		except = filepath.Join("/proc", strings.TrimSpace(ts.ReadFile(file)), "environ")
		secretIn(ts, except)
	}
	var found []string
	for _, path := range append(readable(ts, except), files(ts)...) {
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ESRCH) {
			continue // a process has ended, or is another user's
		}
		ts.Check(err)
		if at := secrets.FindIndex(content); at != nil {
			found = append(found, fmt.Sprintf("%s at %d", path, at[0]))
		}
	}
	if (len(found) > 0) != neg {
		ts.Fatalf("there is a token, an assertion or a secret in %q", found)
	}
}

func secretIn(ts *testscript.TestScript, environ string) string {
	content, err := os.ReadFile(environ)
	ts.Check(err)
	for entry := range strings.SplitSeq(string(content), "\x00") {
		if value, found := strings.CutPrefix(entry, "IDENTITY_HEADER="); found && len(value) >= 32 {
			return value
		}
	}
	ts.Fatalf("%s has no secret", environ)
	return ""
}

// readable are the environments and command lines of all processes, except for one.
func readable(ts *testscript.TestScript, except string) []string {
	all, err := filepath.Glob("/proc/[0-9]*/environ")
	ts.Check(err)
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	ts.Check(err)
	all = slices.DeleteFunc(append(all, lines...), func(path string) bool { return path == except })
	if len(all) < 4 {
		ts.Fatalf("there are no processes")
	}
	return all
}

// files are those of the script.
func files(ts *testscript.TestScript) []string {
	var all []string
	ts.Check(filepath.WalkDir(ts.MkAbs("."), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			all = append(all, path)
		}
		return err
	}))
	if len(all) < 4 {
		ts.Fatalf("there are no files")
	}
	return all
}
