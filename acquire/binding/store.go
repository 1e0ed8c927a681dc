package binding

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

const (
	recordVersion  = 2
	maxRecordBytes = 64 << 10
)

// record is the content of a state file: a certificate and what it belongs to.
type record struct {
	Version      int    `json:"version"`
	Selector     string `json:"selector"` // of the identity, as name.String writes it
	KeyName      string `json:"key_name"` // hex TPM Name of the binding key
	ClientID     string `json:"client_id"`
	TenantID     string `json:"tenant_id"`
	ComputeUnit  string `json:"compute_unit"` // cuId as it went into the request
	IdentityType string `json:"identity_type"`
	MTLSEndpoint string `json:"mtls_endpoint"`
	Attested     bool   `json:"attested"`
	Certificate  []byte `json:"certificate"` // DER

	// Rejected is the x5t#S256 of the certificate that Entra rejected last. It may
	// be this one: then the record says only what must not be used again.
	Rejected string `json:"rejected,omitempty"`
}

func (r *record) isRejected() bool {
	return r.Rejected != "" && r.Rejected == thumbprint(r.Certificate)
}

// Files is a directory of the agent, whose files are written and read by their names in it. The
// errors of Load are those of [statefile.Load].
type Files interface {
	Path(name string) string // for messages
	Write(name string, data []byte) error
	Remove(name string) error
	Load(name string, maxBytes int64, decode func(data []byte) error) error
}

// store keeps one record per identity.
type store struct {
	files Files
}

func (s *store) path(n name) string { return s.files.Path(n.file()) }

func (s *store) save(n name, r record) error {
	r.Version, r.Selector = recordVersion, n.String()
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the binding certificate's state: %w", err)
	}
	return s.files.Write(n.file(), append(data, '\n'))
}

func (s *store) remove(n name) error { return s.files.Remove(n.file()) }

// load returns the stored record of an identity. The errors are those of [statefile.Load]: after
// all but the two that say that the path is free, the file may hold a good record, and nothing may
// be written in its place.
func (s *store) load(n name) (*record, error) {
	var r *record
	err := s.files.Load(n.file(), maxRecordBytes, func(data []byte) (err error) {
		r, err = decodeRecord(data, n.String())
		return err
	})
	return r, err
}

// decodeRecord reads the record of an identity.
func decodeRecord(data []byte, selector string) (*record, error) {
	r, err := decodeAnyRecord(data)
	if err == nil && r.Selector != selector {
		return nil, fmt.Errorf("it is about selector %q, not %q", r.Selector, selector)
	}
	return r, err
}

func decodeAnyRecord(data []byte) (*record, error) {
	var r record
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return nil, fmt.Errorf("not the JSON expected: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON value")
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("version %d, expected %d", r.Version, recordVersion)
	}
	return &r, nil
}
