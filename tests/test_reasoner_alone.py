"""Claims about a process that only answers: compiler and sharding stay out, and come when they are really wanted."""

import json
import subprocess
import sys

ASK = """
import json, sys
from foretell.reasoner import alone
import torch
from foretell.reasoner import answer
from transformers import LlamaConfig, LlamaForCausalLM

model = LlamaForCausalLM(LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                     num_attention_heads=1, num_key_value_heads=1)).eval()
ids = torch.tensor([[1, 2, 3]])
made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=False, pad_token_id=0,
                      eos_token_id=None)
compiler = [name for name, one in sys.modules.items() if name.startswith("torch._dynamo.") and one.__spec__]
found = {"made": made.shape[1], "compiler": len(compiler), "sharding": "torch.distributed.tensor" in sys.modules}
turned = torch.compile(lambda x: x + 1, backend="eager")(torch.zeros(2))
found |= {"turned": turned.tolist(), "real": torch._dynamo.__spec__ is not None}
print(json.dumps(found))
"""


def test_the_compiler_and_sharding_stay_out_until_they_are_wanted() -> None:
    told = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout.splitlines()[-1])
    assert found == {"made": 5, "compiler": 0, "sharding": False, "turned": [1.0, 1.0], "real": True}


def test_it_changes_nothing_where_transformers_is_there_already() -> None:
    code = (
        "import transformers.utils, sys\n"
        "from foretell.reasoner import alone\n"
        "assert transformers.utils.is_torch_distributed_available()\n"
        "assert not any(isinstance(module, alone.Aside) for module in sys.modules.values())\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
