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
  keyagent key csr NAME --next        and cert import NAME --next: gets it a certificate of
                                      an authority; or key self-sign NAME --next
  keyagent key rotate NAME --finish   tries key and certificate, and switches to them
  keyagent key rotate NAME --back     switches to the generation before

--finish makes TLS handshakes with a server in this process, and with --connect one
with the server that the certificate is for, which must demand client certificates.
What does not prove to work is not switched to. A self-signed certificate is not, either,
where the configuration uses the key for mutual TLS (bound: require): by all that is
known, Entra refuses it there. --connect or --force says that it is taken.

The old generation stays in the state directory until the next rotation begins. Until
then --back tries it in this process and switches to it. The one that was in use is the
next one then: --finish switches to it again, --cancel removes it.

The agent's own key, "binding", is rotated in one go: its certificate comes from the
platform. A running agent goes on with the old one until it is restarted.`,
		Example: `  keyagent key rotate app
  keyagent key rotate app --finish --connect mtls.example.com:443
  keyagent key rotate app --back
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
	flags.BoolVar(&r.force, "force", false, "switch to a self-signed certificate though the key is for mutual TLS, for --finish")
	flags.BoolVar(&r.back, "back", false, "try the generation before and switch to it")
	flags.BoolVar(&r.cancel, "cancel", false, "remove the next generation")
	flags.StringVar(&r.connect, "connect", "", "HOST:PORT of a server to try it with, for --finish")
	flags.StringVar(&r.caFile, "ca-file", "", "PEM file of authorities for that server, besides the system's")
	flags.BoolVar(&r.asJSON, "json", false, "print JSON")
	return cmd
}

// rotation has the flags of one rotation.
type rotation struct {
	begin                keyFlags
	connect, caFile      string
	finish, cancel, back bool
	force                bool
	asJSON               bool
}

// steps counts the flags that name a step after the first.
func (r rotation) steps() int {
	n := 0
	for _, given := range []bool{r.finish, r.cancel, r.back} {
		if given {
			n++
		}
	}
	return n
}

// check refuses flags that belong to another step.
func (r rotation) check(name string) error {
	changes := r.begin
	changes.auth = keyring.AuthSource{} // of use when finishing, too
	connects := r.connect != "" || r.caFile != ""
	switch {
	case r.steps() > 1:
		return usagef("--finish, --cancel and --back exclude each other")
	case r.caFile != "" && r.connect == "" && r.finish:
		return usagef("--ca-file is of no use without --connect")
	case connects && !r.finish:
		return usageError{errors.New("--connect and --ca-file go with --finish")}
	case r.force && !r.finish:
		return usagef("--force goes with --finish")
	case r.steps() > 0 && changes != keyFlags{}:
		return usageError{errors.New("the flags that describe the key go with the command that begins the rotation, not with --finish, --cancel or --back")}
	case name == statedir.BindingKeyName && (r.finish || r.back || r.begin != keyFlags{}):
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
	switch {
	case r.finish:
		return a.finishRotation(ctx, keys, name, r)
	case r.back:
		return a.goBack(ctx, keys, name, r)
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
	return a.printKey(report, r.asJSON, fmt.Sprintf(afterBegin(keys.NeedsIssuer(name)), name))
}

// afterBegin says what to do with the next generation; %[1]s is the key. For mutual TLS, Entra
// takes certificates of an authority.
func afterBegin(needsIssuer bool) string {
	if needsIssuer {
		return `key %[1]q stays in use until this one has proved to work:
  keyagent key csr %[1]s --next --subject CN=%[1]s --out request.pem
  have the authority issue the certificate that the app registration trusts (bound: require)
  keyagent cert import %[1]s --next --file chain.pem
  keyagent key rotate %[1]s --finish                 (or --cancel)`
	}
	return `key %[1]q stays in use until this one has proved to work:
  keyagent key self-sign %[1]s --next --subject CN=%[1]s    (or csr --next, then cert import --next)
  upload the certificate to the app registration
  keyagent key rotate %[1]s --finish                 (or --cancel)`
}

func (a *app) goBack(ctx context.Context, keys *keyring.Keyring, name string, r rotation) error {
	report, err := awaited(ctx, a, "trying the generation before", func() (keyring.KeyReport, error) {
		return keys.GoBack(ctx, name, r.begin.auth)
	})
	if err != nil {
		return err
	}
	return a.printKey(report, r.asJSON, fmt.Sprintf(`went back to this generation; the one that was in use is the next one now:
  keyagent key rotate %[1]s --finish                 (switches to it again)
  keyagent key rotate %[1]s --cancel                 (removes it)`, name))
}

func (a *app) finishRotation(ctx context.Context, keys *keyring.Keyring, name string, r rotation) error {
	roots, err := engine.RootsWith(r.caFile)
	if err != nil {
		return usagef("--ca-file: %w", err)
	}
	report, err := awaited(ctx, a, "trying the next generation", func() (keyring.KeyReport, error) {
		return keys.FinishRotation(ctx, name, keyring.FinishOptions{Connect: r.connect, RootCAs: roots, Force: r.force, Auth: r.begin.auth})
	})
	if err != nil {
		return err
	}
	return a.printKey(report, r.asJSON, "switched to this generation; the old one stays until the next rotation, and keyagent key rotate "+name+" --back switches back to it")
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
