"""What skl2onnx asks a model of a type unknown to it; nothing is loaded before it asks."""

from importlib import import_module
from types import SimpleNamespace
from typing import Any

# under which skl2onnx knows its own converter, and ours
_THEIRS, _OURS = "SklearnGaussianMixture", "JaxgmmGaussianMixture"


class OnnxMixin:
    """A mixture that skl2onnx converts as it converts scikit-learn's."""

    def onnx_parser(self) -> Any:
        """For skl2onnx, which asks this first: the outputs of the converted model."""
        types = import_module("skl2onnx.common.data_types")
        # it has options for types that have been registered
        for one in (type(self), _plain()):
            import_module("skl2onnx").update_registered_converter(
                one,
                _OURS,
                self.onnx_shape_calculator(),
                _convert,
                options={"score_samples": [True, False]},
            )

        def parser(scope: Any = None, inputs: Any = None) -> list[tuple[str, Any]]:
            number = inputs[0].type
            outputs = [("label", types.Int64TensorType()), ("probabilities", number)]
            if scope.get_options(self, {"score_samples": False})["score_samples"]:
                outputs.append(("score_samples", number))
            return outputs

        return parser

    def onnx_shape_calculator(self) -> Any:
        """For skl2onnx: what finds the shapes of the outputs."""
        return import_module("skl2onnx.common._registration").get_shape_calculator(_THEIRS)

    def onnx_converter(self) -> Any:
        """For skl2onnx: its converter, of a mixture with the constants that predictions have."""
        return _convert


def _plain() -> Any:
    """The class whose density has no constants besides the weights."""
    return import_module("jaxgmm.sklearn").GaussianMixture


def _convert(scope: Any, operator: Any, container: Any) -> None:
    model = operator.raw_operator
    plain = _plain()(len(model.means_), covariance_type=model.covariance_type)
    plain.means_, plain.precisions_cholesky_ = model.means_, model.precisions_cholesky_
    log_weights = model._estimate_log_weights() + model._log_det_gap()
    plain._estimate_log_weights = lambda: log_weights
    # options are known by the object that they are for
    chosen = container.get_options(model, {"score_samples": False})
    container.options = {**(container.options or {}), id(plain): chosen}
    stand_in = SimpleNamespace(
        inputs=operator.inputs,
        outputs=operator.outputs,
        raw_operator=plain,
        target_opset=operator.target_opset,
    )
    import_module("skl2onnx.common._registration").get_converter(_THEIRS)(
        scope, stand_in, container
    )
