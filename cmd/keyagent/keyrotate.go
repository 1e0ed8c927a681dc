package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/internal/engine"
	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/internal/statedir"
)

func (a *app) keyRotateCommand(place *placeFlags) *cobra.Command {
	var r rotation
	cmd := &cobra.Command{
		Use:   "rotate NAME",
		Short: "Put another key in a key's place",
		Long: `Put another key in a key's place, in steps:

  keyagent key rotate NAME            makes the next generation beside the one in use,
                                      like it but for the options given
  keyagent key self-sign NAME --next  or csr and cert import: gets it a certificate
  keyagent key rotate NAME --finish   tries key and certificate, and switches to them

--finish makes TLS handshakes with a server in this process, and with --connect one
with the server that the certificate is for, which must demand client certificates.
What does not prove to work is not switched to. The old generation stays in the state
directory until the next rotation begins.

The agent's own key, "binding", is rotated in one go: its certificate comes from the
platform. A running agent goes on with the old one until it is restarted.`,
		Example: `  keyagent key rotate app
  keyagent key rotate app --finish --connect mtls.example.com:443
  keyagent key rotate app --pcrs none
  keyagent key rotate binding`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := r.check(args[0]); err != nil {
				return err
			}
			if args[0] == statedir.BindingKeyName && !r.cancel {
				return a.rotateBindingKey(cmd, place, r.asJSON)
			}
			return a.withKeys(cmd, place, func(keys *keyring.Keyring) error { return a.rotate(cmd, keys, args[0], r) })
		},
	}
	r.begin.add(cmd, "that of the key in use")
	flags := cmd.Flags()
	flags.BoolVar(&r.begin.noAuth, "no-auth", false, "the new key needs no authorization value, though the old one does")
	flags.BoolVar(&r.finish, "finish", false, "try the next generation and switch to it")
	flags.BoolVar(&r.cancel, "cancel", false, "remove the next generation")
	flags.StringVar(&r.connect, "connect", "", "HOST:PORT of a server to try it with, for --finish")
	flags.StringVar(&r.caFile, "ca-file", "", "PEM file of authorities for that server, besides the system's")
	flags.BoolVar(&r.asJSON, "json", false, "print JSON")
	return cmd
}

// rotation is what was asked for.
type rotation struct {
	begin           keyFlags
	connect, caFile string
	finish, cancel  bool
	asJSON          bool
}

// check refuses flags that belong to another step.
func (r rotation) check(name string) error {
	changes := r.begin
	changes.auth = keyring.AuthSource{} // of use when finishing, too
	connects := r.connect != "" || r.caFile != ""
	switch {
	case r.finish && r.cancel:
		return usageError{errors.New("--finish and --cancel exclude each other")}
	case r.caFile != "" && r.connect == "" && r.finish:
		return usagef("--ca-file is of no use without --connect")
	case connects && !r.finish:
		return usageError{errors.New("--connect and --ca-file go with --finish")}
	case (r.finish || r.cancel) && changes != keyFlags{}:
		return usageError{errors.New("the flags that say what the key is like go with the command that begins the rotation, not with --finish or --cancel")}
	case name == statedir.BindingKeyName && (r.finish || r.begin != keyFlags{}):
		return usageError{fmt.Errorf("key %q is rotated in one go, as the configuration says: give no option", name)}
	}
	return nil
}

func (a *app) rotate(cmd *cobra.Command, keys *keyring.Keyring, name string, r rotation) error {
	ctx := cmd.Context()
	if r.cancel {
		if err := a.during(ctx, "removing the next generation", func() error { return keys.CancelRotation(ctx, name) }); err != nil {
			return err
		}
		return a.printDone(r.asJSON, "cancelled", name, "the rotation of key %q is cancelled, and its next generation is gone\n")
	}
	if r.finish {
		return a.finishRotation(ctx, keys, name, r)
	}
	req, err := r.begin.request()
	if err != nil {
		return err
	}
	var report keyring.KeyReport
	err = a.during(ctx, "making the next generation in the TPM (RSA can take a minute)", func() (err error) {
		report, err = keys.BeginRotation(ctx, name, req)
		return err
	})
	if err != nil {
		return err
	}
	return a.printKey(report, r.asJSON, fmt.Sprintf(`key %[1]q stays in use until this one has proved to work:
  keyagent key self-sign %[1]s --next --subject CN=%[1]s    (or csr --next, then cert import --next)
  upload the certificate to the app registration
  keyagent key rotate %[1]s --finish                 (or --cancel)`, name))
}

func (a *app) finishRotation(ctx context.Context, keys *keyring.Keyring, name string, r rotation) error {
	roots, err := engine.RootsWith(r.caFile)
	if err != nil {
		return usagef("--ca-file: %w", err)
	}
	report, err := awaited(ctx, a, "trying the next generation", func() (keyring.KeyReport, error) {
		return keys.FinishRotation(ctx, name, keyring.FinishOptions{Connect: r.connect, RootCAs: roots, Auth: r.begin.auth})
	})
	if err != nil {
		return err
	}
	return a.printKey(report, r.asJSON, "switched to this generation; the old one stays until the next rotation")
}

func (a *app) rotateBindingKey(cmd *cobra.Command, place *placeFlags, asJSON bool) error {
	cfg, err := place.config(a, cmd)
	if err != nil {
		return err
	}
	var generation int
	err = a.during(cmd.Context(), "rotating the agent's own key", func() error {
		next, err := keyring.RotateBindingKey(cmd.Context(), cfg, engine.Options{Version: version, Logger: a.warnings(), Waits: a.waits, Words: words{}})
		generation = next.Generation
		return err
	})
	if err != nil {
		return err
	}
	if asJSON {
		return a.printJSON(map[string]any{"name": statedir.BindingKeyName, "generation": generation, "rotated": true})
	}
	_, err = fmt.Fprintf(a.out, "the agent's own key is now generation %d\nnext: restart the agent; until then it goes on with the old key\n", generation)
	return err
}
