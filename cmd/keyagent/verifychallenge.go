package main

import (
	"bytes"
	"encoding/hex"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/attest"
)

// maxNonceText bounds a file with a nonce, in bytes.
const maxNonceText = 1 << 10

// challengeFlags say what the evidence must answer.
type challengeFlags struct {
	nonce, nonceFile, audience, issued string
	none                               bool
}

func (f *challengeFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.nonce, "nonce", "", "the nonce that you gave to the machine: 16 to 64 bytes in hexadecimal")
	flags.StringVar(&f.nonceFile, "nonce-file", "", "file with the nonce, in hexadecimal, too (- is standard input)")
	flags.StringVar(&f.issued, "nonce-issued", "", "when you gave out the nonce, as in 2026-06-01T12:00:00Z; a policy with max_age needs it")
	flags.StringVar(&f.audience, "audience", attest.DefaultAudience, "who the evidence was made for, as keyagent attest was told")
	flags.BoolVar(&f.none, "no-nonce", false, "look at evidence of which you have no nonce; it is never verified")
}

// read returns the challenge, or nil if the user says that there is none.
func (f challengeFlags) read(in io.Reader) (*attest.Challenge, error) {
	named := f.nonce != "" || f.nonceFile != ""
	switch {
	case f.none && named:
		return nil, usagef("--no-nonce excludes --nonce and --nonce-file")
	case f.none:
		return nil, nil //nolint:nilnil // no challenge, and no error: the caller was told so
	case f.nonce != "" && f.nonceFile != "":
		return nil, usagef("--nonce and --nonce-file exclude each other")
	case !named:
		return nil, usagef("--nonce is needed, the one that you gave to the machine: without it, evidence may be old (--no-nonce shows it all the same, and never ends with exit code 0)")
	}
	text := []byte(f.nonce)
	if f.nonceFile != "" {
		var err error
		if text, err = readNonceFile(f.nonceFile, in); err != nil {
			return nil, err
		}
	}
	return f.challenge(text)
}

// challenge makes a challenge of a nonce in hexadecimal.
func (f challengeFlags) challenge(text []byte) (*attest.Challenge, error) {
	ch, err := f.base()
	if err != nil {
		return nil, err
	}
	if ch.Nonce, err = hex.DecodeString(string(bytes.TrimSpace(text))); err != nil {
		return nil, usagef("the nonce is not hexadecimal, such as openssl rand -hex 32 prints")
	}
	if err := ch.Validate(); err != nil {
		return nil, usageError{err}
	}
	return &ch, nil
}

// base is a challenge without its nonce.
func (f challengeFlags) base() (attest.Challenge, error) {
	ch := attest.Challenge{Audience: f.audience}
	if f.issued == "" {
		return ch, nil
	}
	var err error
	if ch.Issued, err = time.Parse(time.RFC3339, f.issued); err != nil {
		return ch, usagef("--nonce-issued %q is not a time such as 2026-06-01T12:00:00Z", f.issued)
	}
	return ch, nil
}

func readNonceFile(path string, in io.Reader) ([]byte, error) {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	return io.ReadAll(io.LimitReader(in, maxNonceText))
}
