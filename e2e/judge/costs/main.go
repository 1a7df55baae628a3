// Command costs reads expressions, one a line, and prints what upstream says they cost: the estimate's least and most,
// the cost of running it (or `-` where it fails), and the expression. It makes the table of our cost tests:
//
//	go run . < expressions > ../../../src/api/cel/costs.txt
package main

import (
	"bufio"
	"fmt"
	"log"
	"os"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/checker"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
)

type sizes struct{}

func (sizes) EstimateSize(checker.AstNode) *checker.SizeEstimate { return nil }

func (sizes) EstimateCallCost(string, string, *checker.AstNode, []checker.AstNode) *checker.CallEstimate {
	return nil
}

func main() {
	set, err := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()).Extend(environment.VersionedOptions{
		IntroducedVersion: environment.DefaultCompatibilityVersion(),
		EnvOptions:        []cel.EnvOption{cel.Variable("anything", cel.DynType)},
	})
	if err != nil {
		log.Fatal(err)
	}
	env, err := set.Env(environment.StoredExpressions)
	if err != nil {
		log.Fatal(err)
	}
	estimator := &library.CostEstimator{SizeEstimator: sizes{}}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		ast, issues := env.Compile(lines.Text())
		if issues.Err() != nil {
			fmt.Fprintln(os.Stderr, lines.Text(), issues.Err())
			continue
		}
		cost, err := env.EstimateCost(ast, estimator, checker.PresenceTestHasCost(false))
		if err != nil {
			log.Fatal(err)
		}
		program, err := env.Program(ast, cel.CostTracking(estimator))
		if err != nil {
			log.Fatal(err)
		}
		spent := "-"
		_, details, err := program.Eval(map[string]any{"anything": []any{int64(3), int64(1), int64(2)}})
		if err == nil {
			spent = fmt.Sprint(*details.ActualCost())
		}
		fmt.Printf("%d %d %s %s\n", cost.Min, cost.Max, spent, lines.Text())
	}
}
