package keyring

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/inputfile"
	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
)

// States of a key's generation.
const (
	StateCurrent = "current" // in use
	StateNext    = "next"    // begun by a rotation
	StateOld     = "old"     // in use before the last rotation
)

// KeyReport describes one generation of a key.
type KeyReport struct {
	Name       string     `json:"name,omitempty"` // empty for a file that is not of the store
	KeyFile    string     `json:"key_file"`
	Generation int        `json:"generation,omitempty"`
	State      string     `json:"state,omitempty"`
	Created    *time.Time `json:"created,omitempty"`

	Algorithm       string   `json:"algorithm,omitempty"` // one of [Algorithms]; empty: another
	Strength        string   `json:"strength,omitempty"`  // empty if the TPM did not load it
	Attributes      []string `json:"attributes,omitempty"`
	Deviations      []string `json:"deviations,omitempty"` // weaknesses that a key made here has not
	TPMName         string   `json:"tpm_name,omitempty"`
	ParentName      string   `json:"parent_name,omitempty"`       // the TPM's Name of the storage key that it is under; empty: not known
	PublicKeySHA256 string   `json:"public_key_sha256,omitempty"` // of SubjectPublicKeyInfo, hexadecimal
	PublicKey       string   `json:"public_key,omitempty"`        // PEM

	Tested           bool     `json:"tested"` // it signed, and the signatures were verified
	PSSSaltLength    *int     `json:"pss_salt_length,omitempty"`
	TLSVersions      []string `json:"tls_versions,omitempty"`
	SignatureSchemes []string `json:"signature_schemes,omitempty"`

	PCRs             []int  `json:"pcrs,omitempty"`
	PCRBank          string `json:"pcr_bank,omitempty"`
	AuthValue        bool   `json:"auth_value"` // it needs one; if it was not tried, the file says so
	PersistentHandle string `json:"persistent_handle,omitempty"`
	AtHandle         bool   `json:"at_handle,omitempty"` // it is there

	Certificate *CertificateReport `json:"certificate,omitempty"`

	Problem  string   `json:"problem,omitempty"` // why it does not work now
	Action   string   `json:"action,omitempty"`  // what to do about it; commands are on lines of their own
	Warnings []string `json:"warnings,omitempty"`

	Err error `json:"-"` // that Problem is the text of
}

func (r *KeyReport) warn(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}

func (k *Keyring) fail(r *KeyReport, err error) {
	r.Err, r.Problem = err, err.Error()
	todo, _ := advice.Of(err)
	r.Action = todo.Text(k.opts.Words)
}

// Show reports on all generations of a key, or of all keys.
func (k *Keyring) Show(ctx context.Context, name string, source AuthSource) ([]KeyReport, error) {
	if name == "" && source.given() {
		return nil, requestf("an authorization value is that of one key: name it, since a TPM counts wrong values")
	}
	names, err := k.list(name)
	if err != nil {
		return nil, err
	}
	if _, err := k.on(ctx); err != nil {
		return nil, err
	}
	reports := []KeyReport{} // in JSON, no keys are an empty list
	for _, n := range names {
		generations, err := k.store.Generations(n)
		if err != nil && name == "" { // the others may be in order
			r := KeyReport{Name: n}
			k.fail(&r, err)
			reports = append(reports, r)
			continue
		}
		if err != nil {
			return nil, statedir.Explain(err, n)
		}
		auth, err := k.authValue(n, source)
		if err != nil && (source.given() || ctx.Err() != nil) {
			return nil, err
		}
		for _, e := range generations {
			reports = append(reports, k.report(ctx, e, auth))
		}
	}
	return reports, ctx.Err()
}

// Inspect reports on a key file wherever it lies. It is loaded, whatever its attributes are.
func (k *Keyring) Inspect(ctx context.Context, from ForeignFile, source AuthSource) (KeyReport, error) {
	file, err := from.read(source)
	if err != nil {
		return KeyReport{}, err
	}
	auth, err := source.read()
	if err != nil {
		return KeyReport{}, err
	}
	if _, err := k.on(ctx); err != nil {
		return KeyReport{}, err
	}
	r := KeyReport{KeyFile: from.Path}
	said := !file.EmptyAuth
	err = k.mayTry(ctx, from, source, file)
	untried := errors.Is(err, tpm.ErrAuthValue)
	if err != nil && !untried {
		return KeyReport{}, err
	}
	file.EmptyAuth = file.EmptyAuth && !untried // described, and not used without the value that it may have
	k.examine(ctx, &r, file, signer.Config{KeyFile: inputfile.Shown(from.Path), Options: tpm.KeyOptions{AuthValue: auth}})
	if untried {
		r.AuthValue = said
	}
	return r, from.explain(r.Err, "NAME", advice.Run(advice.ShowKey, "", advice.File.Is(from.Path)))
}

// report describes a generation. The TPM is open.
func (k *Keyring) report(ctx context.Context, e keystore.Entry, auth secret.String) KeyReport {
	r := k.begin(e)
	file, err := k.store.ReadKeyFile(e)
	if err != nil {
		k.fail(&r, err)
		return r
	}
	k.examine(ctx, &r, file, signer.Config{
		KeyFile: e.KeyFile, Persistent: k.store.Place(e), PCRValues: e.PCRValues, ParentName: e.ParentName, Options: tpm.KeyOptions{AuthValue: auth},
	})
	k.checkHandle(ctx, &r, e)
	k.addCertificate(&r, e, file)
	return r
}

// begin is a report of what the store knows of a generation.
func (k *Keyring) begin(e keystore.Entry) KeyReport {
	r := KeyReport{Name: e.Name, KeyFile: e.KeyFile, Generation: e.Generation, State: k.state(e), PersistentHandle: handleText(e.Persistent)}
	if !e.Created.IsZero() {
		r.Created = &e.Created
	}
	return r
}

// describe adds what the key's file says.
func (r *KeyReport) describe(file *tpm.KeyFile) error {
	d, err := file.Describe()
	if err != nil {
		return err
	}
	r.Algorithm, r.AuthValue = string(d.Algorithm), d.AuthValue
	if len(d.PCRs.PCRs) > 0 {
		r.PCRs, r.PCRBank = d.PCRs.PCRs, d.PCRBank
	}
	return r.addPublicKey(d.PublicKey)
}

func (k *Keyring) state(e keystore.Entry) string {
	current, err := k.store.Current(e.Name)
	switch {
	case err != nil || e.Generation < current.Generation:
		return StateOld
	case e.Generation == current.Generation:
		return StateCurrent
	}
	return StateNext
}

// examine has the TPM load the key, which describes it, and then sign with it.
func (k *Keyring) examine(ctx context.Context, r *KeyReport, file *tpm.KeyFile, cfg signer.Config) {
	if err := r.describe(file); err != nil {
		k.fail(r, err)
		return
	}
	blind, err := k.load(ctx, r, file, cfg)
	if err != nil {
		k.fail(r, r.explain(err))
		return
	}
	if blind {
		r.warn("it was not tried: it may need an authorization value, and wrong ones can lock the TPM; %s", k.opts.Say("give %s or %s%s", advice.AuthFile, advice.AuthCredential, r.orNone()))
		return
	}
	if err := k.try(ctx, r, file, cfg); err != nil {
		k.fail(r, r.explain(err))
	}
}

// orNone adds the flag that applies to a file only: of a key of the store it is known whether it
// has a value.
func (r *KeyReport) orNone() advice.Advice {
	if r.Name == "" {
		return advice.New(", or %s if it has none", advice.NoAuth)
	}
	return advice.Advice{}
}

// explain adds advice about a key of the store. Of a file, only its caller knows what to advise.
func (r *KeyReport) explain(err error) error {
	if r.Name == "" {
		return err
	}
	return statedir.Explain(err, r.Name)
}

func (r *KeyReport) addPublicKey(public crypto.PublicKey) error {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return fmt.Errorf("public key: %w", err)
	}
	sum := sha256.Sum256(der)
	r.PublicKeySHA256 = hex.EncodeToString(sum[:])
	r.PublicKey = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	return nil
}

// load loads a key without using it. Blind says that it should not be tried without its value: the
// TPM counts wrong ones.
func (k *Keyring) load(ctx context.Context, r *KeyReport, file *tpm.KeyFile, cfg signer.Config) (blind bool, err error) {
	key, err := k.tpm.LoadKey(ctx, file, tpm.LoadOptions{AuthValue: cfg.Options.AuthValue, Parent: cfg.ParentName})
	if err != nil {
		return false, err
	}
	attributes := key.Public().ObjectAttributes
	r.Strength, r.Attributes, r.Deviations = string(signer.StrengthTPM), tpm.AttributeNames(attributes), key.Deviations()
	r.TPMName, r.ParentName = hex.EncodeToString(key.Name()), hex.EncodeToString(key.ParentName())
	for _, d := range r.Deviations {
		r.warn("%s", d)
	}
	return r.AuthValue && cfg.Options.AuthValue.IsZero() && !attributes.NoDA, key.Close()
}

// try signs with a key.
func (k *Keyring) try(ctx context.Context, r *KeyReport, file *tpm.KeyFile, cfg signer.Config) error {
	cfg.TPM, cfg.AnyAttributes = k.tpm, true
	key, err := signer.OpenFile(ctx, cfg, file)
	if errors.Is(err, tpm.ErrAuthValue) && cfg.Options.AuthValue.IsZero() {
		give := k.opts.Say("give %s or %s", advice.AuthFile, advice.AuthCredential)
		if r.AuthValue {
			r.warn("it was not tried: it needs its authorization value; %s", give)
		} else {
			r.warn("it was not tried further: it has an authorization value, though its file says that it has none; %s", give)
		}
		r.AuthValue = true
		return nil
	}
	if err != nil {
		return err
	}
	r.Tested = true
	r.AuthValue = !cfg.Options.AuthValue.IsZero() // what the file says is a hint; now it is known
	for _, v := range key.TLSVersions() {
		r.TLSVersions = append(r.TLSVersions, tls.VersionName(v))
	}
	for _, s := range key.SignatureSchemes(ctx) {
		r.SignatureSchemes = append(r.SignatureSchemes, s.String())
	}
	if !isElliptic(key.Public()) {
		salt := key.Info().PSSSaltLength
		r.PSSSaltLength = &salt
	}
	if len(r.TLSVersions) == 1 {
		r.warn("%s", WithoutTLS13(key.Info().PSSSaltLength))
	}
	return key.Close()
}

// WithoutTLS13 says why an RSA key cannot be used in TLS 1.3, which has only PSS with a salt as
// long as the hash (RFC 8446, 4.2.3).
func WithoutTLS13(salt int) string {
	if salt < 0 {
		return "TLS 1.3 cannot be used: the key does not sign with PSS; TLS 1.2 works"
	}
	return fmt.Sprintf("TLS 1.3 cannot be used: this TPM salts PSS with %d bytes, and TLS demands 32; TLS 1.2 works, and an ecdsa-p256 key would do both", salt)
}

// checkHandle looks whether a key is at its persistent handle.
func (k *Keyring) checkHandle(ctx context.Context, r *KeyReport, e keystore.Entry) {
	if e.Persistent == 0 || r.TPMName == "" || r.State == StateOld {
		return
	}
	_, name, err := k.tpm.ReadPublic(ctx, e.Persistent)
	r.AtHandle = err == nil && hex.EncodeToString(name) == r.TPMName
	if !r.AtHandle && r.State == StateCurrent {
		r.warn("it is not at its persistent handle %s, and is loaded from its file", r.PersistentHandle)
	}
}

func (k *Keyring) addCertificate(r *KeyReport, e keystore.Entry, file *tpm.KeyFile) {
	chain, err := k.store.Certificates(e)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		r.Certificate = &CertificateReport{File: e.CertFile, Problem: err.Error()}
		r.warn("%v", err)
		return
	}
	d, err := file.Describe()
	if err != nil {
		return // the key's own problem says it
	}
	c := k.certificate(chain, d.PublicKey, e)
	r.Warnings = append(r.Warnings, c.Warnings...)
	c.PEM, c.Warnings = "", nil // the certificate's own report has the one, and the other is said
	r.Certificate = &c
	switch {
	case c.Problem != "":
		r.warn("%s", c.Problem)
	case c.ExpiresSoon && r.State != StateOld:
		r.warn("its certificate expires soon, at %s", c.NotAfter.UTC().Format(time.RFC3339))
	}
}
