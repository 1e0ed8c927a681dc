package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
)

func (a *app) statusCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the agent's key, certificates and identities",
		Long: `Show what the agent is and has: the TPM, the binding key with its attributes as the
TPM reports them, and for each identity its binding certificate or credentials, how many
days its certificates have left, and its last error.

Exit code 0 means that the agent is ready, 1 that it is not, and why: the TPM does not
answer, audit records are required and cannot be written, or an identity cannot give
tokens. An identity cannot if its last attempt to get a token failed for more than the
request that was made, or if none of its credentials can be used: no key, no
certificate, an expired one, no assertion file. One that nobody has asked for yet, and
of which nothing of that kind is known, is ready.

Only root, the agent's own user and the admins of its configuration may ask.`,
		Example: "  keyagent status\n  keyagent status --json | jq .key.attributes",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			agent := client.New(client.Config{Socket: a.agentSocket(cmd)})
			defer agent.Close()
			status, err := awaited(cmd.Context(), a, "asking the agent", func() (wire.Status, error) { return agent.Status(cmd.Context()) })
			if err != nil {
				return err
			}
			if asJSON {
				err = a.printJSON(status)
			} else {
				err = printStatus(a.out, status)
			}
			if err == nil && !status.Ready {
				err = notReady(status)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// notReady is why the agent cannot do what it is there for.
func notReady(s wire.Status) error {
	separator := " "
	if len(s.NotReady) > 1 {
		separator = "\n  "
	}
	return errors.New(strings.Join(append([]string{"the agent is not ready:"}, s.NotReady...), separator))
}

func printStatus(out io.Writer, s wire.Status) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := rowsOn(w)
	row("agent", "%s, pid %d, since %s", s.Version, s.PID, stamp(s.Started))
	row("ready", "%s", readyText(s))
	row("tpm", "%s, %s, firmware %s", s.TPM.Device, s.TPM.Manufacturer, s.TPM.FirmwareVersion)
	if s.TPM.LastError != "" {
		row("  last error", "%s", strings.ReplaceAll(s.TPM.LastError, "\n", " "))
	}
	row("key", "%s, strength %s%s", s.Key.Algorithm, s.Key.Strength, generationText(s.Key.Generation))
	row("  attributes", "%s", strings.Join(s.Key.Attributes, ", "))
	row("  name", "%s", s.Key.Name)
	row("audit", "%s", auditText(s.Audit))
	printConfiguration(row, s.Configuration)
	for _, wait := range s.Waiting {
		row("waiting", "for %s, since %s (%d)", wait.What, stamp(wait.Since), wait.Count)
	}
	for _, r := range s.RulesOff {
		row("rule", "%s is not in force: %s", r.Name, strings.ReplaceAll(r.Reason, "\n", "; "))
	}
	if s.AdminsUnknown != "" {
		row("admins", "not all were found: %s", strings.ReplaceAll(s.AdminsUnknown, "\n", "; "))
	}
	for _, a := range s.Unconfirmed {
		row(a.Kind, "%s has the number %d of the configuration before%s: %s", a.Name, a.Number, untilText(a.Until), strings.ReplaceAll(a.Reason, "\n", " "))
	}
	for _, id := range s.Identities {
		row("identity "+id.Name, "%s, %s", id.Kind, id.State)
		printIdentity(row, id, s)
	}
	return w.Flush()
}

func printIdentity(row rowFunc, id wire.IdentityStatus, s wire.Status) {
	if id.LastError != "" {
		said := strings.ReplaceAll(id.LastError, "\n", " ")
		if slices.ContainsFunc(s.NotReady, func(why string) bool { return strings.HasSuffix(why, id.LastError) }) {
			said = "see ready, above"
		}
		row("  last error", "%s%s", errorTime(id.LastErrorAt, id.LastErrorBeforeReload, s.Configuration), said)
	}
	if id.ClientID != "" {
		row("  client id", "%s", id.ClientID)
	}
	if c := id.Certificate; c != nil {
		row("  certificate", "%s, issued by %s", c.Subject, c.Issuer)
		row("  thumbprint", "%s (x5t#S256)", c.Thumbprint)
		row("  valid", "%s to %s (%s), renewed from %s", stamp(c.NotBefore), stamp(c.EffectiveExpiry), daysLeft(c.DaysLeft), stamp(c.RenewAt))
	}
	for _, c := range id.Credentials {
		row("  credential "+c.Name, "%s, %s, %s", c.Source, form(c.Bound), c.State)
		if c.Strength != "" {
			row("    strength", "%s", c.Strength)
		}
		if c.LastError != "" && !strings.Contains(id.LastError+"\n", c.LastError+"\n") { // else it was said
			row("    last error", "%s%s", errorTime(c.LastErrorAt, c.LastErrorBeforeReload, s.Configuration), strings.ReplaceAll(c.LastError, "\n", " "))
		}
		if leaf := c.Certificate; leaf != nil {
			row("    certificate", "%s, thumbprint %s", leaf.Subject, leaf.ThumbprintSHA1)
			row("    valid", "until %s (%s)%s", stamp(leaf.EffectiveExpiry), daysLeft(leaf.DaysLeft), expiryNote(*leaf))
		}
	}
	if t := id.TLS; t != nil {
		row("  tls", "%s, client signature %s, handshakes: %d", t.Version, t.SignatureAlgorithm, t.Handshakes)
	}
}

// errorTime says when an error was; nothing if it is of now.
func errorTime(at time.Time, beforeReload bool, c wire.ConfigurationStatus) string {
	switch {
	case at.IsZero():
		return ""
	case beforeReload:
		return fmt.Sprintf("at %s, before a reload changed trust, proxy or attestation (configuration in force since %s): ", stamp(at), stamp(c.Since))
	}
	return "at " + stamp(at) + ": "
}

func printConfiguration(row rowFunc, c wire.ConfigurationStatus) {
	row("configuration", "%s, in force since %s, reloads: %d, refused: %d", c.File, stamp(c.Since), c.Reloads, c.Refused)
	row("  sha256", "%s", c.SHA256)
	if last := c.LastReload; last != nil && last.Error != "" {
		row("  last reload", "refused at %s (%s), the configuration before stays in force: %s", stamp(last.At), last.Cause, strings.ReplaceAll(last.Error, "\n", "; "))
	} else if last != nil {
		row("  last reload", "%s (%s)", stamp(last.At), last.Cause)
	}
}

func auditText(s wire.AuditStatus) string {
	text := "not required"
	if s.Required {
		text = "required"
	}
	if place := cmp.Or(s.File, s.To); place != "" {
		text = "to " + place + ", " + text
	}
	if s.LastWritten != nil {
		text += fmt.Sprintf(", records written: %d, last %s", s.Written, stamp(*s.LastWritten))
	}
	if s.LastError != "" {
		text += ", records cannot be written: " + strings.ReplaceAll(s.LastError, "\n", " ")
	}
	if s.Lost > 0 {
		text += fmt.Sprintf(", lost so far: %d", s.Lost)
	}
	return text
}

func readyText(s wire.Status) string {
	if s.Ready {
		return "yes"
	}
	return "no: " + strings.ReplaceAll(strings.Join(s.NotReady, "; "), "\n", " ")
}

// daysLeft says how long a certificate is still of use.
func daysLeft(days int) string {
	switch {
	case days < -1:
		return fmt.Sprintf("expired %d days ago", -days-1)
	case days < 0:
		return "expired less than a day ago"
	case days == 0:
		return "less than a day left"
	}
	return fmt.Sprintf("%d days left", days)
}

func expiryNote(c wire.CertificateStatus) string {
	if c.ExpiresSoon {
		return ": replace it (docs/keys.md says how)"
	}
	return ""
}

// untilText says when a number counts no more.
func untilText(until *time.Time) string {
	if until == nil {
		return ""
	}
	return ", until " + stamp(*until) + " unless it is confirmed"
}

// generationText is empty for a key that cannot be rotated.
func generationText(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", generation %d", n)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// form says in which form a credential is shown.
func form(bound bool) string {
	if bound {
		return "bound"
	}
	return "unbound"
}
