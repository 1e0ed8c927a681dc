// Command demo shows the main job with the production binary against a simulated
// Azure, and then shows what a thief of each file can do with it.
//
// Everything runs as processes of their own that talk over sockets: azuresim is
// the Confidential VM and the Azure around it, keyagent is the agent as it is
// installed. Every step checks what it shows; the first thing that is not as it
// should be ends the demo with exit code 1.
//
// Usage:
//
//	demo [-bin DIR]     DIR holds azuresim and keyagent; default: the demo's own
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// limit is far above what the demo takes; it ends one that hangs.
const limit = 3 * time.Minute

func main() {
	own, err := os.Executable()
	if err != nil {
		own = "."
	}
	bin := flag.String("bin", filepath.Dir(own), "directory of azuresim and keyagent")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, limit)
	err = run(ctx, *bin)
	cancel()
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: error: %v\n", err)
		os.Exit(1)
	}
}

// run plays all steps in a directory of its own.
func run(ctx context.Context, bin string) (err error) {
	dir, err := os.MkdirTemp("", "keyagent-demo-")
	if err != nil {
		return err
	}
	d := &demo{page: newPage(os.Stdout), bin: bin, dir: dir}
	defer func() {
		d.stop()
		if err == nil {
			err = os.RemoveAll(dir)
			return
		}
		fmt.Fprintf(os.Stderr, "demo: hint: logs and state are left in %s\n", dir)
	}()
	for _, step := range []struct {
		title string
		play  func(context.Context) error
	}{
		{"A Confidential VM, and the Azure around it", d.platform},
		{"The agent starts and makes its key", d.key},
		{"A program on the VM asks for a token", d.token},
		{"What it took: evidence", d.evidence},
		{"What it took: a certificate bound to the key", d.certificate},
		{"The token works like any other", d.resource},
		{"A restart reuses key and certificate", d.restart},
		{"An application that trusts the managed identity", d.federated},
		{"An application with a certificate of its own", d.certificateApp},
		{"A program that no rule names gets nothing", d.refusal},
		{"A thief copies the agent's files to another VM", d.stolenFiles},
		{"A thief has the certificate, but not the key", d.stolenCertificate},
		{"A thief has a token that is bound to the key", d.stolenBoundToken},
	} {
		d.page.title(step.title)
		if err := step.play(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.title, err)
		}
	}
	d.page.end()
	return nil
}
