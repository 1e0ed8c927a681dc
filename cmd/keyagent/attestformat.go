package main

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/formats"
	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/internal/shell"
)

// formatCSR is the one form that a key must sign.
const formatCSR = "csr"

func (f *attestFlags) checkFormat() error {
	if _, err := formats.Parse(f.format, append(formats.OfEvidence(), formatCSR)); err != nil {
		return usageError{err}
	}
	named := f.names.Subject != "" || len(f.names.AltNames) > 0
	switch {
	case named && f.format != formatCSR:
		return usagef("--subject and --san are for --format csr")
	case f.format == formatCSR && !named:
		return usagef("--format csr needs --subject or --san, as in --subject CN=app")
	case f.format == formatCSR && f.key == "" && f.identity == "":
		return usagef("--format csr needs --key or --identity: the agent's own key gets its certificates by itself")
	}
	return nil
}

// writeClaims writes what evidence says as a claims set.
func (a *app) writeClaims(f attestFlags, bundle []byte) error {
	evidence, err := attest.Parse(bundle)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := formats.WriteEvidence(&text, formats.EAT, evidence); err != nil {
		return err
	}
	return a.writeMade(f.out, text.Bytes())
}

func (a *app) writeMade(out string, text []byte) error {
	if out == "" || out == standardOutput {
		_, err := a.out.Write(text)
		return err
	}
	return keyring.WriteEvidence(out, text)
}

// writeRequest has the key sign a certificate request with the evidence in it. The key is used as
// this user, whoever made the evidence.
func (a *app) writeRequest(cmd *cobra.Command, f attestFlags, bundle []byte) error {
	evidence, err := attest.Parse(bundle)
	if err != nil {
		return err
	}
	attribute, err := formats.Attribute(evidence)
	if err != nil {
		return err
	}
	return a.withKeys(cmd, &f.place, func(keys *keyring.Keyring) error {
		name, err := keys.EvidenceKey(f.identity, f.key)
		if err != nil {
			return err
		}
		text, err := awaited(cmd.Context(), a, "having the key sign the request", func() ([]byte, error) {
			return keys.Request(cmd.Context(), name, keyring.RequestOptions{NameRequest: f.names, Auth: f.auth, Attributes: [][]byte{attribute}})
		})
		if err != nil {
			return err
		}
		if err := checkRequest(text); err != nil {
			return fmt.Errorf("key %q: %w", name, err)
		}
		if err := a.writeMade(f.out, text); err != nil || f.out == "" || f.out == standardOutput || a.json {
			return err
		}
		fmt.Fprintf(a.err, "keyagent: next: give %s to an authority, and run with the certificate that it issues: keyagent cert import %s --file FILE\n",
			printable(shell.Word(f.out)), name)
		return nil
	})
}

// checkRequest reads the request as an authority would: the key may have been rotated since the
// evidence was made.
func checkRequest(text []byte) error {
	block, _ := pem.Decode(text)
	if block == nil {
		return errors.New("the request is not PEM")
	}
	_, _, err := formats.ParseRequest(block.Bytes)
	return err
}
