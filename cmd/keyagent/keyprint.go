package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/keyagent/keyagent/attest/report"
	"github.com/keyagent/keyagent/internal/inputfile"
	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/internal/shell"
)

// printDone prints that something was done to a key.
func (a *app) printDone(asJSON bool, what, name, format string) error {
	if asJSON {
		return a.printJSON(map[string]any{"name": name, what: true})
	}
	_, err := fmt.Fprintf(a.out, format, name)
	return err
}

// printKey prints one key, and what to do next on a line of its own. A key that was made and does
// not work is no success: only a signature shows, for one, that the PCR values that it was bound to
// are the TPM's.
func (a *app) printKey(r keyring.KeyReport, asJSON bool, next string) error {
	a.warn(r.Warnings)
	problem := r.Problem
	if asJSON {
		r.PublicKey = ""
		return errors.Join(a.printJSON(r), brokenKey(r.Name, problem))
	}
	r.Warnings = nil // they are printed already
	err := errors.Join(a.printKeys([]keyring.KeyReport{r}, false, false), brokenKey(r.Name, problem))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.out, next)
	return err
}

func brokenKey(name, problem string) error {
	if problem == "" {
		return nil
	}
	return fmt.Errorf("key %q is there and does not work: %s", name, strings.ReplaceAll(problem, "\n", " "))
}

// warn prints the warnings about a change that was made, where they cannot be overlooked.
func (a *app) warn(warnings []string) {
	if a.json {
		return // they are in the result
	}
	for _, w := range warnings {
		fmt.Fprintf(a.err, "keyagent: warning: %s\n", printable(strings.ReplaceAll(w, "\n", " ")))
	}
}

type rowFunc = func(name, format string, args ...any)

func rowsOn(w io.Writer) rowFunc {
	return func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", name, printable(fmt.Sprintf(format, args...)))
	}
}

// printable escapes characters that would control a terminal or feign a line of their own. Names in
// certificates, and a server's answers, may contain any character.
func printable(text string) string { return report.Printable(text) }

// printableLines is printable for advice, in which commands to be pasted are on lines of their own.
func printableLines(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = printable(lines[i])
	}
	return strings.Join(lines, "\n  ")
}

// printKeys prints what there is to say of keys.
func (a *app) printKeys(reports []keyring.KeyReport, asJSON, public bool) error {
	if !public {
		for i := range reports {
			reports[i].PublicKey = ""
		}
	}
	if asJSON {
		return a.printJSON(reports)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	row := rowsOn(w)
	for _, r := range reports {
		printKeyRows(row, r)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, r := range reports {
		if _, err := fmt.Fprint(a.out, r.PublicKey); err != nil {
			return err
		}
	}
	return nil
}

func printKeyRows(row rowFunc, r keyring.KeyReport) {
	switch {
	case r.Name == "":
		row("key", "%s", inputfile.Shown(r.KeyFile))
	case r.State == "":
		row("key "+r.Name, "")
	default:
		row("key "+r.Name, "%s, generation %d", r.State, r.Generation)
	}
	optional := func(name, value string) {
		if value != "" {
			row("  "+name, "%s", value)
		}
	}
	optional("problem", strings.ReplaceAll(r.Problem, "\n", " "))
	for i, line := range strings.Split(r.Action, "\n") { // commands are on lines of their own
		optional([]string{"to do", ""}[min(i, 1)], line)
	}
	optional("algorithm", r.Algorithm)
	optional("strength", r.Strength)
	optional("attributes", strings.Join(r.Attributes, ", "))
	for _, w := range r.Warnings {
		optional("warning", strings.ReplaceAll(w, "\n", " "))
	}
	if r.Created != nil {
		row("  created", "%s", stamp(*r.Created))
	}
	optional("tls", strings.Join(r.TLSVersions, ", "))
	optional("signatures", strings.Join(r.SignatureSchemes, ", "))
	if r.PSSSaltLength != nil {
		row("  pss salt", "%d bytes", *r.PSSSaltLength)
	}
	printBounds(row, r)
	optional("tpm name", r.TPMName)
	optional("public key", r.PublicKeySHA256)
	optional("file", r.KeyFile)
	if r.Certificate != nil && r.Certificate.Subject != "" {
		printCertificateRows(row, "  certificate", *r.Certificate)
	}
}

// printBounds prints what a key needs to be used.
func printBounds(row rowFunc, r keyring.KeyReport) {
	if len(r.PCRs) > 0 {
		row("  pcrs", "%s of bank %s", strings.Trim(fmt.Sprint(r.PCRs), "[]"), r.PCRBank)
	}
	if r.AuthValue {
		row("  auth value", "needed")
	}
	switch {
	case r.PersistentHandle != "" && r.AtHandle:
		row("  persistent", "%s", r.PersistentHandle)
	case r.PersistentHandle != "":
		row("  persistent", "%s, not there", r.PersistentHandle)
	}
}

func (a *app) printCertificate(r keyring.CertificateReport, asJSON bool) error {
	a.warn(r.Warnings)
	if asJSON {
		return a.printJSON(r)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	row := rowsOn(w)
	printCertificateRows(row, "certificate", r)
	if r.Replaced != nil {
		printReplacedRows(row, *r.Replaced)
	}
	return w.Flush()
}

// printReplacedRows prints the replaced key and certificate, and how to restore them.
func printReplacedRows(row rowFunc, r keyring.ReplacedReport) {
	row("replaced", "%s", r.Subject)
	row("  valid", "%s to %s", stamp(r.NotBefore), stamp(r.NotAfter))
	row("  thumbprint", "%s", r.ThumbprintSHA1)
	row("  x5t#S256", "%s", r.X5tS256)
	row("  Entra", "%s", r.Entra())
	row("  file", "%s", r.File)
	row("  back", "%s", r.Restore)
}

func printCertificateRows(row rowFunc, title string, r keyring.CertificateReport) {
	row(title, "%s", r.Subject)
	indent := "  " + title[:len(title)-len("certificate")]
	issuer := r.Issuer
	if r.SelfSigned {
		issuer = "itself"
	}
	row(indent+"issuer", "%s", issuer)
	for _, c := range r.Chain {
		row(indent+"comes with", "%s", c)
	}
	if len(r.AltNames) > 0 {
		row(indent+"names", "%s", strings.Join(r.AltNames, ", "))
	}
	soon := ""
	if r.ExpiresSoon && r.Problem == "" { // expired is a problem
		soon = " (soon)"
	}
	row(indent+"valid", "%s to %s%s", stamp(r.NotBefore), stamp(r.NotAfter), soon)
	row(indent+"thumbprint", "%s", r.ThumbprintSHA1)
	row(indent+"x5t#S256", "%s", r.X5tS256)
	if r.Problem != "" {
		row(indent+"problem", "%s", strings.ReplaceAll(r.Problem, "\n", " "))
	}
	if r.File != "" {
		row(indent+"file", "%s", r.File)
	}
}

// printUpload prints a certificate, and how the app registration gets it.
func (a *app) printUpload(r keyring.CertificateReport, asJSON bool) error {
	if err := a.printCertificate(r, asJSON); err != nil || asJSON || !r.ForEntra {
		return err
	}
	_, err := fmt.Fprintf(a.out, `
Self-signed, it will do for signed assertions (bound: never). Over mutual TLS (bound:
require, the default) Entra takes certificates of an authority that the app registration
trusts by subject name and issuer: keyagent key csr, then keyagent cert import.

Upload %s to the app registration (Certificates & secrets, Certificates), or
  az ad app credential reset --id CLIENT-ID --cert @%s --append
The portal then shows the thumbprint %s.
`, r.File, shell.Word(r.File), r.ThumbprintSHA1)
	return err
}
