package binding

import (
	"bytes"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/internal/statefile"
)

const (
	recordVersion  = 1
	maxRecordBytes = 64 << 10
)

// record is the content of a state file: a certificate and what it belongs to.
type record struct {
	Version      int    `json:"version"`
	Identity     string `json:"identity"`
	KeyName      string `json:"key_name"` // hex TPM Name of the binding key
	ClientID     string `json:"client_id"`
	TenantID     string `json:"tenant_id"`
	ComputeUnit  string `json:"compute_unit"` // cuId as it went into the request
	IdentityType string `json:"identity_type"`
	MTLSEndpoint string `json:"mtls_endpoint"`
	Attested     bool   `json:"attested"`
	Certificate  []byte `json:"certificate"` // DER
}

// store keeps one record per identity below dir.
type store struct {
	dir    string
	logger *slog.Logger
}

func (s *store) path(identity string) string {
	return filepath.Join(s.dir, "binding-"+identity+".json")
}

func (s *store) save(r record) error {
	r.Version = recordVersion
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the binding certificate's state: %w", err)
	}
	return statefile.Write(s.path(r.Identity), append(data, '\n'))
}

// load returns the stored record of an identity, or nil. A file that cannot be
// understood is moved aside: the price is one issuance.
func (s *store) load(identity string) *record {
	path := s.path(identity)
	data, err := statefile.Read(path, maxRecordBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		var r *record
		if r, err = decodeRecord(data, identity); err == nil {
			return r
		}
	}
	moved, qerr := statefile.Quarantine(path)
	s.logger.Warn("binding certificate's state file is unusable; a new certificate will be issued",
		"identity", identity, "file", path, "moved_to", moved, "error", err, "move_error", qerr)
	return nil
}

func decodeRecord(data []byte, identity string) (*record, error) {
	var r record
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return nil, fmt.Errorf("not the JSON expected: %w", err)
	}
	if r.Version != recordVersion || r.Identity != identity {
		return nil, fmt.Errorf("version %d of identity %q, expected version %d of %q", r.Version, r.Identity, recordVersion, identity)
	}
	return &r, nil
}

// belongs reports whether the record was issued for this identity as IMDS
// describes it now, and for this key.
func (r *record) belongs(meta *imds.PlatformMetadata, keyName string) bool {
	return r.KeyName == keyName && r.ClientID == meta.ClientID && r.TenantID == meta.TenantID && r.ComputeUnit == meta.ComputeUnitID
}

func (r *record) certificate(key crypto.PublicKey, now time.Time) (*Certificate, error) {
	c, err := parseCertificate(r.Certificate, key, r.ClientID, now)
	if err != nil {
		return nil, err
	}
	c.ClientID, c.TenantID, c.IdentityType = r.ClientID, r.TenantID, r.IdentityType
	c.MTLSEndpoint, c.Attested = r.MTLSEndpoint, r.Attested
	return c, nil
}
