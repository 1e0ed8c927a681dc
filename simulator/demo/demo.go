package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// demo is the stage: one VM with its platform and its agent.
type demo struct {
	page *page
	bin  string
	dir  string

	vm    machine
	agent *process
	other machine // the thief's
	bound boundToken
}

// machine is a running azuresim: a Confidential VM and the Azure around it.
type machine struct {
	dir  string
	sim  *process
	info platformInfo
}

// platformInfo is the part of azuresim.json that the demo uses.
type platformInfo struct {
	IMDS      string `json:"imds"`
	MTLSAuth  string `json:"mtlsauth"`
	MAA       string `json:"maa"`
	Resource  string `json:"resource"`
	Control   string `json:"control"`
	CAFile    string `json:"ca_file"`
	AppCAFile string `json:"app_ca_file"`
	TPM       string `json:"tpm"`
	TenantID  string `json:"tenant_id"`
}

func (d *demo) program(name string) string { return filepath.Join(d.bin, name) }

func (d *demo) stop() {
	d.agent.stop()
	d.vm.sim.stop()
	d.other.sim.stop()
}

// boot starts an azuresim in a directory of its own.
func (d *demo) boot(ctx context.Context, name string) (machine, error) {
	m := machine{dir: filepath.Join(d.dir, name)}
	if err := os.Mkdir(m.dir, 0o755); err != nil {
		return m, err
	}
	var err error
	if m.sim, err = start(m.dir, "azuresim", d.program("azuresim"), "--dir", m.dir); err != nil {
		return m, err
	}
	file := filepath.Join(m.dir, "azuresim.json")
	err = m.sim.until(ctx, func() bool {
		data, err := os.ReadFile(file)
		return err == nil && json.Unmarshal(data, &m.info) == nil
	})
	return m, err
}

func (m machine) config() string { return filepath.Join(m.dir, "keyagent.yaml") }
func (m machine) socket() string { return filepath.Join(m.dir, "agent.sock") }
func (m machine) state() string  { return filepath.Join(m.dir, "state") }

// journalEntry is a request that the simulated platform saw.
type journalEntry struct {
	Operation  string `json:"operation"`
	Status     int    `json:"status"`
	Outcome    string `json:"outcome"`
	Thumbprint string `json:"client_cert_thumbprint"`
	Detail     struct {
		Checks []struct {
			Name   string `json:"check"`
			Status string `json:"status"`
		} `json:"checks"`
	} `json:"detail"`
}

// journal asks the platform for its record of an operation.
func (m machine) journal(ctx context.Context, operation string) ([]journalEntry, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.info.Control+"/journal", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var all []journalEntry
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
		return nil, fmt.Errorf("reading the journal: %w", err)
	}
	var entries []journalEntry
	for _, e := range all {
		if e.Operation == operation {
			entries = append(entries, e)
		}
	}
	return entries, nil
}

// startAgent runs "keyagent serve" and waits until it answers.
func (d *demo) startAgent(ctx context.Context) error {
	var err error
	d.agent, err = start(d.vm.dir, "keyagent", d.program("keyagent"), "serve", "--config", d.vm.config())
	if err != nil {
		return err
	}
	return d.agent.until(ctx, func() bool {
		_, err := d.status(ctx)
		return err == nil
	})
}

// status asks the agent what it is and has. It may well say that an identity is not set up yet,
// which is exit code 1.
func (d *demo) status(ctx context.Context) (agentStatus, error) {
	var status agentStatus
	r, err := d.keyagent(ctx, "status", "--json")
	if err != nil {
		return status, err
	}
	if r.code > 1 {
		return status, fmt.Errorf("keyagent status: exit code %d: %s", r.code, r.err)
	}
	return status, json.Unmarshal([]byte(r.out), &status)
}

// keyagent runs a client command against the VM's agent.
func (d *demo) keyagent(ctx context.Context, args ...string) (result, error) {
	return command(ctx, nil, d.program("keyagent"), append(args, "--socket", d.vm.socket())...)
}

// ask runs a client command that must succeed, and decodes its JSON.
func (d *demo) ask(ctx context.Context, into any, args ...string) error {
	r, err := d.keyagent(ctx, args...)
	if err != nil {
		return err
	}
	if r.code != 0 {
		return fmt.Errorf("keyagent %s: exit code %d: %s", strings.Join(args, " "), r.code, r.err)
	}
	return json.Unmarshal([]byte(r.out), into)
}

// expect turns a claim of the demo that does not hold into its end.
func expect(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return errors.New("this should not have happened: " + fmt.Sprintf(format, args...))
}
