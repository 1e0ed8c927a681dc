package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/formats"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/internal/engine"
	"github.com/keyagent/keyagent/internal/inputfile"
	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/internal/shell"
	"github.com/keyagent/keyagent/internal/statedir"
)

// attestFlags say what evidence is wanted.
type attestFlags struct {
	nonce, nonceFile, audience string
	identity, key, out         string
	pcrs, pcrBank              string
	eventLog, fresh, noAgent   bool
	format                     string
	names                      keyring.NameRequest
	auth                       keyring.AuthSource
	place                      placeFlags
}

// maxNonceFile bounds a file with a nonce in hexadecimal, with space around it.
const maxNonceFile = 1 << 10

func (a *app) attestCommand() *cobra.Command {
	var f attestFlags
	cmd := &cobra.Command{
		Use:   "attest [--nonce HEX | --nonce-file FILE]",
		Short: "Prove where a key is: make attestation evidence",
		Long: `Make attestation evidence that a key of the agent is in this Confidential VM's TPM, for
a verifier's nonce. keyagent verify reads it, and so can programs: docs/evidence.md
describes the bundle. Only evidence that this machine would accept itself is handed out.

The verifier gives the nonce, 16 to 64 bytes, and never the same twice. Without one, a
nonce is made here and printed: such evidence is good to look at, but does not prove to
anybody else that it is not an old one. --audience is the verifier's name, which protects
one verifier from the evidence that was made for another: name it wherever the verifier
is a service, and give keyagent verify the same.

The agent makes the evidence, for users whom a rule with evidence: true names. Where it
is not running, and with --no-agent, this command does, as the user that the agent runs
as. The file is written with mode 0600: it is no secret, but its processor and
attestation key name this machine to whoever reads it.`,
		Example: `  keyagent attest --nonce "$NONCE" --audience https://verifier.example --out evidence.json
  keyagent attest --identity app --nonce-file nonce.hex >evidence.json
  keyagent attest --key app --pcrs 0,1,2,3,4,5,6,7,11 --event-log --out evidence.json
  keyagent attest --key app --nonce "$NONCE" --format csr --subject CN=app --out app.csr
  sudo -u keyagent keyagent attest --no-agent --out evidence.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := f.request()
			if err != nil {
				return err
			}
			if err := f.checkFormat(); err != nil {
				return err
			}
			bundle, err := a.attest(cmd, f, req)
			if err != nil {
				return err
			}
			for _, note := range f.notes(req, bundle) {
				a.warnOf(errors.New(note))
			}
			switch f.format {
			case formatCSR:
				return a.writeRequest(cmd, f, bundle)
			case string(formats.EAT):
				return a.writeClaims(f, bundle)
			}
			return a.writeBundle(f, req, bundle)
		},
	}
	f.add(cmd)
	return cmd
}

func (f *attestFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.nonce, "nonce", "", "the verifier's nonce: 16 to 64 bytes in hexadecimal")
	flags.StringVar(&f.nonceFile, "nonce-file", "", "file with the nonce, in hexadecimal, too (- is standard input)")
	flags.StringVar(&f.audience, "audience", "", "the verifier, as by its URL; keyagent verify must be given the same (default: "+attest.DefaultAudience+")")
	flags.StringVar(&f.identity, "identity", "", "about the key that this identity proves itself with (may be left out if only one key is allowed)")
	flags.StringVar(&f.key, "key", "", "about the key with this name; binding is the agent's own")
	flags.StringVar(&f.pcrs, "pcrs", "", "PCRs to quote, as in 0,2,7 (default: those of the configuration, 0 to 7)")
	flags.StringVar(&f.pcrBank, "pcr-bank", "", "bank of these PCRs: sha256 or sha384 (default: sha256)")
	flags.BoolVar(&f.eventLog, "event-log", false, "with the firmware's log of the boot")
	flags.BoolVar(&f.fresh, "hardware-fresh", false, "have the processor's report made anew, which takes up to ten seconds")
	flags.StringVar(&f.out, "out", "", "file to write (mode 0600) in place of standard output")
	flags.StringVar(&f.format, "format", string(formats.Bundle), "bundle; eat: readable claims, no evidence; csr: a certificate request with the evidence in it (docs/formats.md)")
	addNameFlags(cmd, &f.names)
	flags.BoolVar(&f.noAgent, "no-agent", false, "use the TPM without the agent")
	flags.StringVar(&f.place.tpm, "tpm", "", "with --no-agent: the TPM, in place of the configuration's: device:/dev/tpmrm0, unix:/path or tcp:host:port")
	flags.StringVar(&f.place.stateDir, "state-dir", "", "with --no-agent: the state directory, in place of the configuration's")
	flags.Bool("json", false, "errors and warnings as JSON")
	addAuthFlags(cmd, &f.auth)
}

// direct reports whether a flag is given that only counts without the agent.
func (f *attestFlags) direct() bool {
	return f.noAgent || f.place != placeFlags{} || f.auth != keyring.AuthSource{}
}

// request reads the flags.
func (f *attestFlags) request() (engine.EvidenceRequest, error) {
	req := engine.EvidenceRequest{Audience: f.audience, Key: f.key, EventLog: f.eventLog, HardwareFresh: f.fresh}
	if req.Audience == "" {
		req.Audience = attest.DefaultAudience
	}
	switch {
	case f.identity != "" && f.key != "":
		return req, usagef("--identity and --key exclude each other")
	case f.direct() && !f.noAgent:
		return req, usagef("--tpm, --state-dir, --auth-file and --auth-credential are for --no-agent: the agent knows its own")
	}
	if !slices.Contains([]string{"", "sha256", "sha384"}, f.pcrBank) {
		return req, usagef("--pcr-bank %q is neither sha256 nor sha384", f.pcrBank)
	}
	req.PCRBank = f.pcrBank
	if f.pcrs != "" {
		var err error
		if req.PCRs, err = parsePCRs(f.pcrs); err != nil {
			return req, err
		}
	}
	nonce, err := f.readNonce()
	if err != nil {
		return req, err
	}
	req.Nonce = nonce
	challenge := attest.Challenge{Nonce: req.Nonce, Audience: req.Audience}
	if err := challenge.Validate(); err != nil {
		return req, usageError{err}
	}
	return req, checkAuth(f.auth, false)
}

// readNonce returns the nonce that was given, or a new one.
func (f *attestFlags) readNonce() ([]byte, error) {
	if f.nonce != "" && f.nonceFile != "" {
		return nil, usagef("--nonce and --nonce-file exclude each other")
	}
	text := []byte(f.nonce)
	if f.nonceFile != "" {
		var err error
		if text, err = inputfile.Read(f.nonceFile, maxNonceFile); err != nil {
			return nil, err
		}
		if text = bytes.TrimSpace(text); len(text) == 0 {
			return nil, usagef("--nonce-file: the file is empty")
		}
	}
	if len(text) == 0 {
		nonce := make([]byte, attest.MinNonceSize*2)
		_, err := rand.Read(nonce)
		return nonce, err
	}
	nonce := make([]byte, hex.DecodedLen(len(text)))
	if _, err := hex.Decode(nonce, text); err != nil {
		return nil, usageError{errors.New("the nonce is not hexadecimal, as in openssl rand -hex 32")}
	}
	return nonce, nil
}

// attest asks the agent, or makes the evidence where there is none and this user could run it.
func (a *app) attest(cmd *cobra.Command, f attestFlags, req engine.EvidenceRequest) ([]byte, error) {
	if f.noAgent {
		return a.attestAlone(cmd, f, req)
	}
	agent := client.New(client.Config{Socket: a.agentSocket(cmd)})
	defer agent.Close()
	bundle, err := awaited(cmd.Context(), a, "waiting for the agent's evidence", func() ([]byte, error) {
		return agent.Evidence(cmd.Context(), wire.EvidenceRequest{
			Nonce: base64.RawURLEncoding.EncodeToString(req.Nonce), Audience: req.Audience, Identity: f.identity, Key: f.key,
			PCRs: req.PCRs, PCRBank: req.PCRBank, EventLog: req.EventLog, HardwareFresh: req.HardwareFresh,
		})
	})
	if errors.Is(err, client.ErrNotReachable) && a.mayBeAgent(cmd, f) {
		a.warnOf(fmt.Errorf("%w; the evidence is made without it", err))
		return a.attestAlone(cmd, f, req)
	}
	return bundle, err
}

// mayBeAgent reports whether no socket was named, and this user owns the state directory.
func (a *app) mayBeAgent(cmd *cobra.Command, f attestFlags) bool {
	if a.socket != "" || os.Getenv(wire.EnvSocket) != "" {
		return false
	}
	cfg, err := f.place.config(a, cmd)
	if err != nil {
		return false
	}
	_, err = os.ReadDir(cfg.StateDir)
	return err == nil && statedir.CheckOwner(cfg.StateDir) == nil
}

// attestAlone uses the TPM itself.
func (a *app) attestAlone(cmd *cobra.Command, f attestFlags, req engine.EvidenceRequest) (bundle []byte, err error) {
	err = a.withKeys(cmd, &f.place, func(keys *keyring.Keyring) error {
		bundle, err = awaited(cmd.Context(), a, "making the evidence", func() ([]byte, error) {
			return keys.Evidence(cmd.Context(), f.identity, req, f.auth)
		})
		return err
	})
	return bundle, err
}

// notes says what a verifier may miss in the evidence.
func (f *attestFlags) notes(req engine.EvidenceRequest, bundle []byte) (notes []string) {
	if f.nonce == "" && f.nonceFile == "" {
		notes = append(notes, fmt.Sprintf("no nonce was given; this one was made here, so the evidence proves to nobody else that it is fresh: %x", req.Nonce))
	}
	made, err := attest.Parse(bundle)
	if err != nil {
		return append(notes, fmt.Sprintf("this program cannot read the evidence, since the agent is of another version: %v", err))
	}
	if report, err := made.HardwareReport(); err == nil && report == nil {
		notes = append(notes, "no TEE vouches for this machine: the evidence convinces only a verifier whose policy accepts that")
	}
	if req.EventLog && made.EventLog == nil {
		notes = append(notes, "the evidence has no event log: there is none, or it could not be read (only root can), or it is not that of this boot; the agent's log says which")
	}
	return notes
}

// writeBundle writes the result, and says what to do with it.
func (a *app) writeBundle(f attestFlags, req engine.EvidenceRequest, bundle []byte) error {
	if f.out == "" || f.out == standardOutput {
		_, err := a.out.Write(append(bundle, '\n'))
		return err
	}
	if err := keyring.WriteEvidence(f.out, bundle); err != nil {
		return err
	}
	if a.json {
		return nil
	}
	audience := ""
	if f.audience != "" {
		audience = " --audience " + shell.Word(f.audience)
	}
	fmt.Fprintf(a.err, "keyagent: next: the verifier runs: keyagent verify --evidence %s --nonce %x%s\n", printable(shell.Word(f.out)), req.Nonce, printable(audience))
	return nil
}
