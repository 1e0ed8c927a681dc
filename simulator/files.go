package simulator

import (
	"bytes"
	_ "embed" // the configuration's template
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"

	"github.com/google/renameio/v2"

	"github.com/keyagent/keyagent/simulator/pki"
)

// readyFile is written last: when it is there, everything answers.
const readyFile = "azuresim.json"

// eventLogPadding is how many zeros follow the event log: its buffer is larger than the log, as on
// real machines.
const eventLogPadding = 256

//go:embed keyagent.yaml.tmpl
var agentConfigTemplate string

const (
	configFile = "keyagent.yaml"
	stateDir   = "state" // of the agent; keyagent.yaml.tmpl names it
)

// putStateAside renames the state directory of an agent on an earlier platform in dir: its keys
// belong to a TPM that no longer exists, and an agent would refuse to start on it. A directory that
// has never had a platform is left alone.
func (p *Platform) putStateAside(dir string) error {
	state := filepath.Join(dir, stateDir)
	for _, path := range []string{filepath.Join(dir, configFile), state} {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
	}
	for n := 1; ; n++ {
		old := fmt.Sprintf("%s.old-%d", state, n)
		if _, err := os.Lstat(old); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Rename(state, old); err != nil {
			return fmt.Errorf("moving the agent's state of an earlier machine away: %w", err)
		}
		p.logger.Info("the agent's state of an earlier simulated machine was moved away: its keys belong to a TPM that is no more", "from", state, "to", old)
		return nil
	}
}

// writeFiles writes what an agent on this VM needs to know. None of it is secret.
func (p *Platform) writeFiles(dir string, a *authorities, endpoints bool) error {
	agentConfig, err := p.agentConfig(dir, endpoints)
	if err != nil {
		return err
	}
	ready, err := json.MarshalIndent(p.info, "", "  ")
	if err != nil {
		return err
	}
	if err := a.writeCollateral(p.info); err != nil {
		return err
	}
	for _, file := range []struct {
		path string
		data []byte
	}{
		{p.info.CAFile, pki.EncodePEM(a.servers.Root)},
		{p.info.AppCAFile, pki.EncodePEM(a.apps.Certificate)},
		{p.info.AMDRootsFile, a.processor.RootsPEM()},
		{p.info.VTPMRootsFile, pki.EncodePEM(a.vtpm.Root, a.vtpm.Intermediate)},
		{p.info.ConfigFile, agentConfig},
		{p.info.PolicyFile, p.info.verifiersPolicy()},
		{p.info.EventLogFile, append(p.boot.Bytes(), make([]byte, eventLogPadding)...)},
		{filepath.Join(dir, readyFile), append(ready, '\n')},
	} {
		if err := renameio.WriteFile(file.path, file.data, 0o600); err != nil {
			return fmt.Errorf("writing %s: %w", filepath.Base(file.path), err)
		}
	}
	return nil
}

// verifiersPolicy is a policy for keyagent verify: the default one, but for what is simulated. It
// names files that are beside it.
func (i Info) verifiersPolicy() []byte {
	maker, roots, launch := "amd", i.AMDRootsFile, "sev_snp:\n  launch: {id_key_digests: ["+i.IDKeyDigest+"]}\n"
	if i.TEE == TDX {
		maker, roots, launch = "intel", i.IntelRootsFile, "tdx:\n  mrtd: ["+i.MRTD+"]\n"
	}
	return fmt.Appendf(nil, "# What a verifier has to trust to take this simulated VM for genuine. Nobody else should.\nanchors:\n  %s: %s\n  vtpm_roots: %s\n%s",
		maker, filepath.Base(roots), filepath.Base(i.VTPMRootsFile), launch)
}

// agentConfig is a configuration for an agent on this VM, whose invoking users may have tokens.
func (p *Platform) agentConfig(dir string, endpoints bool) ([]byte, error) {
	var ports loopback
	if endpoints {
		var err error
		if ports, err = freePorts(); err != nil {
			return nil, fmt.Errorf("the agent's endpoints: %w", err)
		}
	}
	t, err := template.New("keyagent.yaml").Funcs(template.FuncMap{"host": host, "quote": strconv.Quote}).Parse(agentConfigTemplate)
	if err != nil {
		return nil, fmt.Errorf("the agent's configuration: %w", err)
	}
	var out bytes.Buffer
	err = t.Execute(&out, struct {
		Info
		loopback
		Dir   string
		Users []string
	}{p.info, ports, dir, invokingUsers(os.Getuid(), os.Getenv)})
	if err != nil {
		return nil, fmt.Errorf("the agent's configuration: %w", err)
	}
	return out.Bytes(), nil
}

// invokingUsers are the user that runs the simulator and, if that is root by sudo(8), also the user
// that called sudo.
func invokingUsers(uid int, getenv func(string) string) []string {
	users := []string{userNamed(strconv.Itoa(uid))}
	if caller := getenv("SUDO_UID"); uid == 0 && caller != "" && caller != "0" {
		users = append(users, userNamed(caller))
	}
	return users
}

// userNamed is a user's name, or the number where the system knows no name.
func userNamed(uid string) string {
	if u, err := user.LookupId(uid); err == nil {
		return u.Username
	}
	return uid
}

// loopback are addresses of an agent's endpoints; empty: it has none.
type loopback struct{ AppServiceAt, IMDSAt string }

// freePorts finds ports that are free now. An agent that starts soon will most likely get them.
func freePorts() (loopback, error) {
	first, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
	if err != nil {
		return loopback{}, err
	}
	defer first.Close()
	second, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // the same
	if err != nil {
		return loopback{}, err
	}
	defer second.Close()
	return loopback{first.Addr().String(), second.Addr().String()}, nil
}

// host is the host and port of a base URL.
func host(baseURL string) string {
	_, rest, _ := strings.Cut(baseURL, "://")
	return rest
}
