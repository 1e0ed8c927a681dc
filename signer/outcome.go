package signer

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/tpm"
)

// Outcome keeps the outcome of a key's self-test beside its file, so that the next start need not
// repeat all of it.
type Outcome interface {
	// Load returns the bytes saved last. The error is fs.ErrNotExist if none were.
	Load() ([]byte, error)
	// Save replaces it in one step.
	Save(outcome []byte) error
}

// outcome is the kept form, as JSON. It is of one key in one TPM with one firmware; an outcome of
// another, or one that is not wholly understood, is ignored and made anew. It says only what a
// signature has shown, never that the TPM refused to make one, and it lets nothing leave that does
// not verify.
type outcome struct {
	Key    string  `json:"key_name"` // the TPM's Name of the key, hexadecimal
	TPM    maker   `json:"tpm"`
	Trials []tried `json:"trials"`
}

// maker is a [tpm.Identity].
type maker struct {
	Manufacturer string `json:"manufacturer"`
	Vendor       string `json:"vendor"`
	Firmware     string `json:"firmware_version"`
}

// tried is a trial and what it has shown.
type tried struct {
	Scheme string `json:"scheme"` // "rsassa-pss"
	Hash   string `json:"hash"`   // "SHA-256"
	Works  bool   `json:"works"`
	Salt   *int   `json:"salt_length,omitempty"` // of PSS, in bytes
}

// schemeNames are the names of the forms in an outcome.
func schemeNames() map[form]string {
	return map[form]string{pss: "rsassa-pss", pkcs1: "rsassa-pkcs1-v1_5", ec: "ecdsa"}
}

// keeper keeps the outcome for one key in one TPM. The zero value keeps nothing.
type keeper struct {
	in     Outcome
	log    *slog.Logger
	public crypto.PublicKey
	of     outcome // without trials
}

func newKeeper(cfg Config, key *tpm.Key, in tpm.Identity) keeper {
	of := outcome{Key: hex.EncodeToString(key.Name()), TPM: maker{in.Manufacturer, in.VendorString, in.FirmwareVersion}}
	return keeper{cfg.Outcome, cfg.Logger, key.PublicKey(), of}
}

// load returns the outcome kept for this key, this TPM and this firmware; nil if there is none.
func (k keeper) load() offer {
	if k.in == nil {
		return nil
	}
	text, err := k.in.Load()
	if err == nil {
		var o offer
		if o, err = k.parse(text); err == nil {
			return o
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		k.log.Info("the kept outcome of the key's self-test is not used; the key is tested anew", "cause", err)
	}
	return nil
}

var (
	errOtherOutcome = errors.New("it is of another key, TPM or firmware")
	errNoOutcome    = errors.New("it is not wholly understood")
)

func (k keeper) parse(text []byte) (offer, error) {
	var kept outcome
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&kept); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errNoOutcome
	}
	if kept.Key != k.of.Key || kept.TPM != k.of.TPM {
		return nil, errOtherOutcome
	}
	o := make(offer)
	for _, t := range trialsOf(k.public) {
		for _, said := range kept.Trials {
			if said.Scheme == schemeNames()[t.form] && said.Hash == t.hash.String() {
				o[t] = said.finding()
			}
		}
	}
	if len(o) != len(kept.Trials) {
		return nil, errNoOutcome
	}
	for t, f := range o {
		if !f.shown() || t.form == pss && f.works != (f.salt == t.hash.Size()) || t.form != pss && f.salt != -1 {
			return nil, errNoOutcome
		}
	}
	return o, nil
}

func (t tried) finding() finding {
	f := finding{works: t.Works, salt: -1}
	if t.Salt != nil {
		f.salt = *t.Salt
	}
	return f
}

// save keeps an offer. That it cannot be kept costs signatures at the next start, no more.
func (k keeper) save(o offer) {
	if k.in == nil {
		return
	}
	kept := k.of
	for _, t := range trialsOf(k.public) {
		if f, known := o[t]; known {
			kept.Trials = append(kept.Trials, newTried(t, f))
		}
	}
	text, err := json.MarshalIndent(kept, "", "  ")
	if err == nil {
		err = k.in.Save(append(text, '\n'))
	}
	if err != nil {
		k.log.Info("the outcome of the key's self-test was not kept", "cause", err)
	}
}

func newTried(t trial, f finding) tried {
	made := tried{Scheme: schemeNames()[t.form], Hash: t.hash.String(), Works: f.works}
	if t.form == tpm2.TPMAlgRSAPSS && f.salt >= 0 {
		made.Salt = &f.salt
	}
	return made
}
