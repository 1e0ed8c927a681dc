package engine

import (
	"encoding/hex"
	"fmt"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/collect"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/tlsbridge"
)

// addTDX decides what the agent's own evidence must satisfy on a VM with Intel TDX. Without a
// source of collateral the agent does not ask itself for any; verifiers may.
func (p *Plan) addTDX(cfg config.TDX) error {
	p.collateral = cfg.Collateral
	p.evidence.CollateralNotRequired = cfg.Collateral == config.CollateralNone
	for _, digest := range cfg.MRTDs {
		b, err := hex.DecodeString(digest)
		if err != nil {
			return fmt.Errorf("attestation.tdx.mrtds: %w", err)
		}
		p.evidence.MRTDs = append(p.evidence.MRTDs, b)
	}
	roots, err := fromPEM("attestation.tdx.roots", cfg.Roots, attest.ParseIntelRoots)
	p.anchors.Intel = append(p.anchors.Intel, roots...)
	return err
}

// hardware is what the collector needs beside the host. Intel's service is outside of the VM, as
// Entra is, and reached in the same way.
func (p *Plan) hardware(opts Options) collect.HardwareConfig {
	outside := tlsbridge.NewClient(tlsbridge.Config{RootCAs: p.rootCAs, Now: opts.Now, Proxy: p.proxy.choose})
	return collect.HardwareConfig{TDXConfig: collect.TDXConfig{Collateral: p.collateral, CollateralHTTP: outside}}
}
