package engine

import (
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/config"
)

// Effective returns the configuration with the defaults that packages have for what the file format
// leaves out.
func Effective(cfg config.Config) *config.Config {
	if cfg.IMDSEndpoint == "" {
		cfg.IMDSEndpoint = imds.DefaultEndpoint
	}
	if cfg.TrustedHosts.MTLS == nil {
		cfg.TrustedHosts.MTLS = imds.MicrosoftMTLSHosts()
	}
	if cfg.TrustedHosts.Attestation == nil {
		cfg.TrustedHosts.Attestation = imds.MicrosoftAttestationHosts()
	}
	if t := cfg.Endpoints.Takeover; t != nil && len(t.Pass) == 0 {
		full := *t
		full.Pass = t.Passes()
		cfg.Endpoints.Takeover = &full
	}
	return &cfg
}
