// Talos' own library of machine configurations, for tests of what we read and of what we write.
//
//	configuration generate v1.9 [kubespan]   a machine configuration, as talosctl gen config writes it for that release
//	configuration secrets v1.9               a secrets bundle, as talosctl gen secrets writes it
//	configuration patch CONFIGURATION PATCH  the configuration with the patch, loaded, merged and validated as Talos does
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/config/configpatcher"
	"github.com/siderolabs/talos/pkg/machinery/config/generate"
	"github.com/siderolabs/talos/pkg/machinery/config/generate/secrets"
	"github.com/siderolabs/talos/pkg/machinery/config/machine"
	"go.yaml.in/yaml/v4"
)

// metal is a machine that has Talos installed already.
type metal struct{}

func (metal) String() string        { return "metal" }
func (metal) RequiresInstall() bool { return false }
func (metal) InContainer() bool     { return false }

func main() {
	out, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if _, err = os.Stdout.Write(out); err != nil {
		os.Exit(1)
	}
}

func run(args []string) ([]byte, error) {
	switch {
	case len(args) >= 2 && args[0] == "generate":
		return makeConfiguration(args[1], len(args) > 2)
	case len(args) == 2 && args[0] == "secrets":
		bundle, err := makeBundle(args[1])
		if err != nil {
			return nil, err
		}
		return yaml.Marshal(bundle)
	case len(args) == 3 && args[0] == "patch":
		return patch(args[1], args[2])
	}
	return nil, errors.New("generate, secrets or patch")
}

func makeBundle(release string) (*secrets.Bundle, error) {
	contract, err := config.ParseContractFromVersion(release)
	if err != nil {
		return nil, err
	}
	return secrets.NewBundle(secrets.NewClock(), contract)
}

func makeConfiguration(release string, kubespan bool) ([]byte, error) {
	contract, err := config.ParseContractFromVersion(release)
	if err != nil {
		return nil, err
	}
	bundle, err := makeBundle(release)
	if err != nil {
		return nil, err
	}
	options := []generate.Option{
		generate.WithVersionContract(contract), generate.WithSecretsBundle(bundle), generate.WithClusterDiscovery(true),
	}
	if kubespan {
		options = append(options, generate.WithKubeSpanEnabled(true))
	}
	input, err := generate.NewInput("test", "https://192.0.2.1:6443", "1.35.0", options...)
	if err != nil {
		return nil, err
	}
	made, err := input.Config(machine.TypeControlPlane)
	if err != nil {
		return nil, err
	}
	return made.Bytes()
}

func patch(configurationFile, patchFile string) ([]byte, error) {
	text, err := os.ReadFile(configurationFile)
	if err != nil {
		return nil, err
	}
	loaded, err := configloader.NewFromBytes(text)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if text, err = os.ReadFile(patchFile); err != nil {
		return nil, err
	}
	change, err := configpatcher.LoadPatch(text)
	if err != nil {
		return nil, fmt.Errorf("patch: %w", err)
	}
	merged, err := configpatcher.Apply(configpatcher.WithConfig(loaded), []configpatcher.Patch{change})
	if err != nil {
		return nil, fmt.Errorf("merge: %w", err)
	}
	after, err := merged.Config()
	if err != nil {
		return nil, fmt.Errorf("merged: %w", err)
	}
	if _, err = after.Validate(metal{}); err != nil {
		return nil, fmt.Errorf("validation: %w", err)
	}
	return after.Bytes()
}
