package policyfile

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/tee"
)

// sgxComponents is how many components the TCB of a platform has.
const sgxComponents = 16

func (d *decoder) tdx(n *yaml.Node, t *attest.TDXPolicy, f files) {
	digests := func(name string, to *[][]byte) func(*yaml.Node) {
		return func(n *yaml.Node) { *to = d.digests(n, "tdx."+name, launchDigestSize) }
	}
	d.mapping(n, "tdx", members{
		"mrtd":                 func(n *yaml.Node) { t.MRTDs = d.mrtds(n) },
		"collateral":           func(n *yaml.Node) { t.CollateralNotRequired = !d.flag(n, "tdx.collateral") },
		"collateral_directory": func(n *yaml.Node) { t.Collateral = f.collateral(n) },
		"accepted_statuses": func(n *yaml.Node) {
			t.AcceptedStatuses = words(d, n, "tdx.accepted_statuses", acceptable())
			slices.Sort(t.AcceptedStatuses)
			t.AcceptedStatuses = slices.Compact(t.AcceptedStatuses)
		},
		"min_tcb_evaluation_number": func(n *yaml.Node) {
			t.MinTCBEvaluationNumber = uint32(d.number(n, "tdx.min_tcb_evaluation_number", 0, 1<<32-1)) //nolint:gosec // number keeps to the range
		},
		"tcb_exceptions":     func(n *yaml.Node) { d.tcbExceptions(n, t) },
		"accept_attributes":  func(n *yaml.Node) { t.TDAttributes = d.attributes(n, "tdx.accept_attributes") },
		"require_attributes": func(n *yaml.Node) { t.RequiredAttributes = d.attributes(n, "tdx.require_attributes") },
		"accept_xfam":        func(n *yaml.Node) { t.XFAM = d.bits(n, "tdx.accept_xfam") },
		"mr_config_id":       digests("mr_config_id", &t.MRConfigIDs),
		"mr_owner":           digests("mr_owner", &t.MROwners),
		"mr_owner_config":    digests("mr_owner_config", &t.MROwnerConfigs),
	})
}

// collateral reads directories with collateral, one for each kind of platform.
func (f files) collateral(n *yaml.Node) (all []*attest.TDXCollateral) {
	const name = "tdx.collateral_directory"
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		f.empty(n, name)
	}
	f.list(n, name, func(entry *yaml.Node) {
		const do = "write the path of a directory with Intel's collateral (docs/attestation.md has its files)"
		dir, ok := f.text(entry, "an entry of "+name, do)
		if !ok {
			return
		}
		c, named, err := readCollateral(name, dir, f.read)
		if err == nil {
			err = first(all, c)
		}
		if err != nil {
			f.refuse(entry, do, "%s: %.200q: %v", name, dir, err)
			return
		}
		f.policy.Origin.Named = append(f.policy.Origin.Named, named...)
		all = append(all, c)
	})
	return all
}

// first refuses collateral for a kind of platform that there is some of already.
func first(all []*attest.TDXCollateral, c *attest.TDXCollateral) error {
	info, err := tee.ParseTCBInfo(c.TCBInfo)
	if err != nil {
		return err
	}
	for _, other := range all {
		if o, err := tee.ParseTCBInfo(other.TCBInfo); err == nil && o.FMSPC == info.FMSPC {
			return fmt.Errorf("a second one for platforms of FMSPC %x", info.FMSPC)
		}
	}
	return nil
}

func readCollateral(member, dir string, read func(string) ([]byte, error)) (*attest.TDXCollateral, []Named, error) {
	var named []Named
	c, err := tee.ReadTDXCollateral(func(name string) ([]byte, error) {
		path := filepath.Join(dir, name)
		data, err := read(path)
		sum := sha256.Sum256(data)
		named = append(named, Named{member, path, hex.EncodeToString(sum[:])})
		return data, err
	})
	return c, named, err
}

// ReadCollateral reads directories as the policy's tdx.collateral_directory does, in place of those
// that the policy names. The member is for the report.
func (p *Policy) ReadCollateral(member string, dirs []string) error {
	var all []*attest.TDXCollateral
	p.Origin.Named = slices.DeleteFunc(p.Origin.Named, func(n Named) bool { return n.Member == "tdx.collateral_directory" })
	for _, dir := range dirs {
		c, named, err := readCollateral(member, dir, func(path string) ([]byte, error) { return readFile(path, maxNamedBytes) })
		if err == nil {
			err = first(all, c)
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", member, dir, err)
		}
		all = append(all, c)
		p.Origin.Named = append(p.Origin.Named, named...)
	}
	p.Rules.TDXPolicy.Collateral = all
	return nil
}

// acceptable are the statuses that a policy may accept. Revoked is none of them: the keys of such a
// platform may be known to others.
func acceptable() map[string]tee.TCBStatus {
	all := map[string]tee.TCBStatus{}
	for _, s := range []tee.TCBStatus{
		tee.SWHardeningNeeded, tee.ConfigurationNeeded, tee.ConfigurationAndSWHardeningNeeded,
		tee.OutOfDate, tee.OutOfDateConfigurationNeeded,
	} {
		all[string(s)] = s
	}
	return all
}

// mrtds reads the list of firmware images; azure stands for those that are built in.
func (d *decoder) mrtds(n *yaml.Node) [][]byte {
	const name = "tdx.mrtd"
	var all [][]byte
	d.list(n, name, func(entry *yaml.Node) {
		if entry.Kind == yaml.ScalarNode && entry.Value == "azure" {
			all = append(all, attest.AzureMRTDs()...)
		} else if b := d.identity(entry, "an entry of "+name, launchDigestSize); b != nil {
			all = append(all, b)
		}
	})
	if len(all) == 0 {
		d.refuse(n, "write digests; [azure] is the built-in list", "%s lists nobody's firmware", name)
	}
	return all
}

// attributes reads bits of TD_ATTRIBUTES. The debug bits, the lowest eight, are never accepted.
func (d *decoder) attributes(n *yaml.Node, name string) uint64 {
	bits := d.bits(n, name)
	if bits&0xff != 0 {
		d.refuse(n, "take the lowest eight bits out", "%s has bits that let the host debug the guest, which is never accepted", name)
	}
	return bits
}

func (d *decoder) tcbExceptions(n *yaml.Node, t *attest.TDXPolicy) {
	const name = "tdx.tcb_exceptions"
	if !d.is(n, yaml.SequenceNode, name, "write entries with fmspc, component and min_svn, each after '- '") {
		return
	}
	for _, entry := range n.Content {
		var e tee.TCBException
		seen := 0
		d.mapping(entry, "an entry of "+name, members{
			"fmspc": func(n *yaml.Node) {
				seen++
				copy(e.FMSPC[:], d.digest(n, "fmspc", len(e.FMSPC)))
			},
			"component": func(n *yaml.Node) { seen++; e.Component = int(d.number(n, "component", 1, sgxComponents)) }, //nolint:gosec // a small number
			"min_svn":   func(n *yaml.Node) { seen++; e.MinSVN = uint8(d.number(n, "min_svn", 0, 255)) },              //nolint:gosec // number keeps to the range
		})
		if seen != 3 {
			d.refuse(entry, "write fmspc, component and min_svn", "an entry of %s lacks a member (FMSPC %s)", name, hex.EncodeToString(e.FMSPC[:]))
		}
		t.TCBExceptions = append(t.TCBExceptions, e)
	}
}
